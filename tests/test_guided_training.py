"""Training with tags: where they come from, how they are disturbed, and what a stage makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.training.checks import check
from linearsr.training.config import TrainConfig
from linearsr.training.data import CropPairs
from linearsr.training.guidance import GuidanceSettings, disturbed
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.recipe import Run, plan
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer
from recipe_tools import parse, recipe_settings, train
from training_tools import flow_stage, make_photos, make_stem, settings, weights

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
    found = PhotoTags.read(tags, Vocabulary(WORDS))
    expected = {"0.png": [1, 1, 0, 0], "1.png": [0, 0, 1, 0], "2.png": [0, 0, 0, 0]}
    assert {name: found.bag(photos / name).tolist() for name in expected} == expected
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
    assert torch.equal(found[7:9], disturbed(bags[7:9], [7, 8], chosen))
    kept, wrong = found[:, :2].mean(), found[:, 2:].mean()
    assert float(kept) == pytest.approx(0.75 * 0.5, abs=0.02)
    assert float(wrong) == pytest.approx(0.75 * 0.4 / 8, abs=0.006)
    silent = GuidanceSettings(part=Path("part"), dropout=0, tag_dropout=0, false_tags=0)
    assert torch.equal(disturbed(bags, list(range(4000)), silent), bags)


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
    frozen = Trainer(TrainConfig(**raw)).run() / "guidance"
    assert all(
        torch.equal(one, two)
        for one, two in zip(weights(part).values(), weights(frozen).values(), strict=True)
    )


def test_a_guided_run_is_resumed_with_the_same_losses(photos: Path, tags: Path, tmp_path: Path) -> None:
    whole = Trainer(TrainConfig(**guided(photos, tags, tmp_path / "whole")))
    whole.run()
    raw = guided(photos, tags, tmp_path / "cut")
    Trainer(TrainConfig(**{**raw, "total_images": 6})).run()
    again = Trainer(TrainConfig(**raw))
    assert again.resume() == 6
    again.run()
    for name, tensor in whole.objective.network.state_dict().items():
        assert torch.equal(tensor, again.objective.network.state_dict()[name]), name


def test_a_recipe_gives_all_experts_the_tokens_of_its_pretraining(
    photos: Path, tags: Path, tmp_path: Path
) -> None:
    raw = recipe_settings(photos, tmp_path / "run")
    raw["common"]["data"]["tags"] = str(tags)
    raw["stages"]["pretrain"]["stage"]["guidance"] = {
        "vocabulary": str(tags.parent / "vocabulary.txt"),
        "false_tags": 1.0,
    }
    stages: dict[str, Any] = {run.name: run.config.stage for run in plan(parse(raw), "recipe.yaml")}
    for run in ("experts/1", "sft/0"):
        assert stages[run].guidance.part == tmp_path / "run/pretrain/knee/guidance"
        assert stages[run].guidance.false_tags == 1.0
    train(raw)
    assert (tmp_path / "run/sft/0/knee/transformer").is_dir()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"data": {"tags": None}}, r"^stage\.guidance: needs .*data\.tags"),
        ({"data": {"tags": "nowhere.json"}}, r"^data\.tags: nowhere\.json cannot be read"),
        (
            {"guidance": {"vocabulary": "nowhere.txt"}},
            r"^stage\.guidance\.vocabulary: nowhere\.txt cannot be read",
        ),
        (
            {"guidance": {"vocabulary": None, "part": "nowhere"}},
            r"^stage\.guidance\.part: nowhere is no folder",
        ),
        ({"tags": "[1]"}, r"^data\.tags: .*must hold"),
        ({"tags": '{"a.png": "sky"}'}, r"^data\.tags: .*'a\.png' has no list of tags"),
        ({"tags": '{"photo/0.png": ["sky"]}'}, r"^data\.tags: .*names none of the photos.*'photos/0\.png'"),
        ({"tags": "{"}, r"^data\.tags: .*no valid JSON"),
    ],
)
def test_a_mistake_is_one_line(
    photos: Path, tags: Path, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    raw = guided(photos, tags, tmp_path / "run", **change.get("guidance", {}))
    raw["data"] |= change.get("data", {})
    if "tags" in change:
        tags.write_text(change["tags"])
    with pytest.raises(ConfigError, match=complaint) as caught:
        check([Run("run", TrainConfig(**raw))])
    assert "\n" not in str(caught.value)


def test_guidance_of_another_width_is_refused(photos: Path, tags: Path, tmp_path: Path) -> None:
    TagGuidance(TagGuidanceConfig(WORDS, 7)).save_pretrained(tmp_path / "part")
    raw = guided(photos, tags, tmp_path / "run", vocabulary=None, part=str(tmp_path / "part"))
    with pytest.raises(ConfigError, match=r"gives 7 channels, but the network's caption_channels is 16"):
        check([Run("run", TrainConfig(**raw))])
