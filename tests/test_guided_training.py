"""Training with tags: where they come from, how they are disturbed, and what a stage makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.guidance.base import GuidanceTokens
from linearsr.guidance.features import FeatureGuidance
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.model_folder import load_guidance
from linearsr.training.checks import check
from linearsr.training.config import TrainConfig
from linearsr.training.data import CropPairs
from linearsr.training.guidance import GuidanceSettings, disturbed
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.recipe import Run, plan
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from training_tools import (
    flow_stage,
    make_photos,
    make_stem,
    parse,
    recipe_settings,
    settings,
    train,
    weights,
)

WORDS = ("sky", "sea", "tree", "wall")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos")


@pytest.fixture
def tags(tmp_path: Path, photos: Path) -> Path:
    """Of the first two photos of three."""
    file = tmp_path / "tags.json"
    file.write_text(json.dumps({"photos/0.png": ["sky", "sea"], "photos/1.png": ["tree", "zeppelin"]}))
    (tmp_path / "vocabulary.txt").write_text("\n".join(WORDS) + "\n\n")
    return file


def guided(photos: Path, tags: Path, run_dir: Path, **guidance: Any) -> dict[str, Any]:
    """A tiny network around a tiny stem, that learns tags."""
    stem = make_stem(run_dir.parent / "stem")
    stage = flow_stage(stem, guidance={"vocabulary": str(tags.parent / "vocabulary.txt"), **guidance})
    raw = settings(photos, run_dir, stage=stage)
    raw["data"] = {**raw["data"], "tags": str(tags)}  # type: ignore[dict-item]
    return raw


def test_a_sample_has_the_tags_of_its_photo(photos: Path, tags: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    found = PhotoTags(tags, Vocabulary(WORDS))
    expected = {"0.png": [1, 1, 0, 0], "1.png": [0, 0, 1, 0], "2.png": [0, 0, 0, 0]}
    assert {name: found.bag(photos / name).tolist() for name in expected} == expected
    other_spelling = PhotoTags(tags, Vocabulary([word.upper() for word in WORDS]))
    assert other_spelling.bag(photos / "0.png").tolist() == expected["0.png"]
    config = TrainConfig(**settings(photos, tmp_path / "run")).data
    pairs = CropPairs(config, 4, seed=0, length=20, photo_tags=found)
    alone = CropPairs(config, 4, seed=0, length=20)
    seen = {tuple(pairs[i].tags.tolist()) for i in range(20)}
    assert seen == {tuple(bag) for bag in expected.values()}
    assert all(torch.equal(pairs[i].hr, alone[i].hr) for i in range(20))


def test_tags_are_left_out_and_put_in_at_their_rates() -> None:
    chosen = GuidanceSettings(part=Path("part"), dropout=0.25, tag_dropout=0.5, false_tags=0.4)
    bags = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]).expand(4000, -1)
    found = disturbed(bags, list(range(4000)), chosen)
    assert torch.equal(found.tags[7:9], disturbed(bags[7:9], [7, 8], chosen).tags)
    assert float(found.tags[:, :2].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(found.tags[:, 2:].mean()) == pytest.approx(0.4 / 8, abs=0.006)
    assert float(found.unguided.float().mean()) == pytest.approx(0.25, abs=0.02)
    silent = GuidanceSettings(part=Path("part"), dropout=0, tag_dropout=0, false_tags=0)
    told = disturbed(bags, list(range(4000)), silent)
    assert torch.equal(told.tags, bags)
    assert not told.unguided.any()


def test_tokens_are_trained_along_and_frozen_from_then_on(photos: Path, tags: Path, tmp_path: Path) -> None:
    raw = guided(photos, tags, tmp_path / "run", dropout=0.0)
    trainer = Trainer(TrainConfig(**raw))
    before = {name: tensor.clone() for name, tensor in trainer.objective.network.state_dict().items()}
    part = trainer.run() / "guidance"
    made = TagGuidance.from_pretrained(part)
    assert made.config == TagGuidanceConfig(WORDS, 16)
    moved = (made.table.weight - before["guidance.table.weight"]).abs().amax(dim=1)
    assert moved.min() > 0

    raw["stage"]["guidance"] = {"part": str(part)}
    raw["run_dir"] = str(tmp_path / "next")
    trainer = Trainer(TrainConfig(**raw))
    assert not (trainer.run() / "guidance").exists()
    after = trainer.objective.guidance.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights(part).items())


def test_a_recipe_gives_all_experts_the_tokens_of_its_pretraining(
    photos: Path, tags: Path, tmp_path: Path
) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    raw["common"]["data"]["tags"] = str(tags)
    raw["stages"]["pretrain"]["stage"]["guidance"] = {
        "vocabulary": str(tags.parent / "vocabulary.txt"),
        "false_tags": 1.0,
        "part": None,
    }
    stages: dict[str, Any] = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml")}
    for run in ("experts/1", "sft/0"):
        assert stages[run].guidance.part == tmp_path / "run/pretrain/knee/guidance"
        assert stages[run].guidance.false_tags == 1.0
    pipe = LinearSRPipeline.from_pretrained(train(raw))
    assert isinstance(pipe.guidance, TagGuidance)
    picture = Image.new("RGB", (9, 7), (200, 30, 90))
    plain, told = (pipe(picture, tags=tags, output_type="np").images[0] for tags in ("", "sky"))
    assert plain.shape == told.shape == (28, 36, 3)


def test_a_network_can_be_guided_by_the_features_of_a_tagger(
    photos: Path, tags: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    tagger = OwnTagger(OwnTaggerConfig(WORDS, num_blocks=2, image_size=16))
    tagger.save_pretrained(tmp_path / "tagger")
    raw = guided(photos, tags, tmp_path / "run", vocabulary=None, features=str(tmp_path / "tagger"))
    check([Run("run", TrainConfig(**raw))])
    part = load_guidance(Trainer(TrainConfig(**raw)).run() / "guidance")
    assert isinstance(part, FeatureGuidance)
    kept = OwnTagger.from_pretrained(tmp_path / "tagger").network.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in part.network.state_dict().items())
    tokens = part.encode(torch.rand(2, 3, 9, 30) * 2 - 1, [[], []])
    assert tokens.embeds.shape == (2, 16, 16)
    assert not torch.allclose(tokens.embeds[0], tokens.embeds[1])


def test_a_finished_part_of_another_kind_guides(photos: Path, tags: Path, tmp_path: Path) -> None:
    """Whatever its kind, a frozen part is asked for its tokens."""
    words = list[list[str]]()

    class Spy(TagGuidance):
        def encode(self, lr: torch.Tensor, tags: Any) -> GuidanceTokens:
            words.extend(tags)
            return super().encode(lr, tags)

    torch.manual_seed(0)
    spy = Spy(TagGuidanceConfig(WORDS, 16))
    raw = guided(
        photos, tags, tmp_path / "run", vocabulary=None, part=str(tmp_path), tag_dropout=0.0, false_tags=0.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("linearsr.training.parts.Parts.guidance", lambda parts, folder: spy)
        Trainer(TrainConfig(**raw)).run()
    assert {tuple(found) for found in words} == {("sky", "sea"), ("tree",), ()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"data": {"tags": None}}, r"^stage\.guidance: needs .*data\.tags"),
        ({"data": {"tags": "nowhere.json"}}, r"^data\.tags: nowhere\.json cannot be read .*linearsr tag"),
        (
            {"guidance": {"vocabulary": "nowhere.txt"}},
            r"^stage\.guidance\.vocabulary: nowhere\.txt: cannot be read",
        ),
        (
            {"guidance": {"vocabulary": None, "part": "nowhere"}},
            r"^stage\.guidance\.part: nowhere is not a folder",
        ),
        ({"tags": "[1]"}, r"^data\.tags: .*must hold"),
        ({"tags": '{"a.png": "sky"}'}, r"^data\.tags: .*must hold .*'a\.png'"),
        ({"tags": '{"photo/0.png": ["sky"]}'}, r"^data\.tags: .*names none of the photos.*'photos/0\.png'"),
        ({"tags": '{"photos/0.png": ["zebra"]}'}, r"^data\.tags: .*no tag of the vocabulary for any photo"),
        ({"tags": "{"}, r"^data\.tags: .*must hold .*Invalid JSON"),
        # without null tokens a sample that is told nothing would see all its tags
        ({"network": {"num_null_tokens": 0}}, r"^stage\.guidance: the network has no null tokens"),
        (
            {"network": {"caption_channels": 7}, "guidance": {"vocabulary": None, "part": "{part}"}},
            r"gives 16 channels, but the network's caption_channels is 7",
        ),
    ],
)
def test_a_mistake_is_one_line(
    photos: Path, tags: Path, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    TagGuidance(TagGuidanceConfig(WORDS, 16)).save_pretrained(tmp_path / "part")
    change = json.loads(json.dumps(change).replace("{part}", str(tmp_path / "part")))
    raw = guided(photos, tags, tmp_path / "run", **change.get("guidance", {}))
    raw["data"] |= change.get("data", {})
    raw["stage"]["network"] |= change.get("network", {})
    if "tags" in change:
        tags.write_text(change["tags"])
    with pytest.raises(ConfigError, match=complaint) as caught:
        check([Run("run", TrainConfig(**raw))])
    assert "\n" not in str(caught.value)
