"""The recipes of the paper's sizes, with tiny parts in the place of the published ones."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from commands import done, linearsr
from linearsr import LinearSRPipeline
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.text import TextGuidance
from linearsr.training.checks import check, check_model
from linearsr.training.config import read_settings
from linearsr.training.recipe import plan
from linearsr.training.section import ConfigError
from tiny_encoders import write_gemma2, write_tokenizer
from training_tools import described, make_photos, make_sana, parse, train

CONFIGS = Path(__file__).parents[1] / "configs"
TAGS = ("sky", "tree", "brick wall", "ivy")
PART = "stages.pretrain.stage.guidance.part"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with tags, a SANA, a tagger, and the guidance of `configs/guidance/tags` with a tiny encoder."""
    lab = tmp_path_factory.mktemp("lab")
    photos = make_photos(lab / "photos")
    make_sana(lab / "sana")
    OwnTagger(OwnTaggerConfig(TAGS, (0.0,) * 4, num_blocks=2, image_size=16)).save_pretrained(lab / "tagger")
    asked = (photos, "--tagger", lab / "tagger", "--degrade", "mild")
    done(linearsr("tag", *asked, "-o", lab / "tags.json"))
    write_gemma2(lab / "text_encoder")
    write_tokenizer(lab / "tokenizer")
    encoders = {"text_encoder": "text_encoder", "tokenizer": "tokenizer", "channels": 16}
    config = json.loads((CONFIGS / "guidance/tags/config.json").read_text())
    (lab / "tags").mkdir()
    (lab / "tags/config.json").write_text(json.dumps({**config, **encoders}))
    return lab


def paper(size: str, lab: Path, run_dir: Path, *changes: str) -> dict[str, Any]:
    """The recipe of a size, small enough for one core."""
    settings = read_settings(CONFIGS / size / "pipeline.yaml")
    assert settings["stages"]["pretrain"]["stage"]["guidance"]["part"] == "configs/guidance/tags"
    tiny = [
        f"run_dir={run_dir}",
        "boundaries=[0.5]",
        "common.batch_size=2",
        "common.mixed_precision='no'",
        "common.save_every_images=2",
        f"common.data.folders={{{lab}/photos: 1.0}}",
        f"common.data.tags={lab}/tags.json",
        "common.data.lr_crop=8",
        "common.data.workers=0",
        f"common.validation.folder={lab}/photos",
        "common.validation.metrics=[psnr_y, lpips]",
        "common.validation.max_pictures=1",
        *(f"stages.{stage}.total_images=2" for stage in ("pretrain", "experts", "sft")),
        *(f"stages.{stage}.validation.every_images=2" for stage in ("pretrain", "experts", "sft")),
        f"stages.sft.data.scores={lab}/scores",
        "stages.pretrain.stage.preset=tiny",
        f"stages.pretrain.stage.sana={lab}/sana",
        "stages.pretrain.stage.validation_steps=2",
        f"{PART}={lab}/tags",
        f"parts.tagger={lab}/tagger",
        "model.num_inference_steps=2",
    ]
    return read_settings(CONFIGS / size / "pipeline.yaml", [*tiny, *changes])


@pytest.mark.parametrize("size", ["600m", "1600m"])
def test_tags_from_photos_to_the_finished_model(
    size: str, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretrain, experts and fine-tuning are told tags; the model finds tags itself and is guided by them."""
    raw = paper(size, lab, tmp_path / "run")
    recipe = parse(raw)
    runs = plan(recipe, "recipe.yaml")
    check_model(recipe, runs, check(runs))
    stages: dict[str, Any] = {run.name: run.config.stage for run in runs}
    assert list(stages) == ["pretrain", "experts/0", "experts/1", "sft/0", "sft/1"]
    for stage in stages.values():
        assert (stage.guidance.part, stage.guidance.dropout) == (lab / "tags", 0.1)
        assert stage.guidance.vocabulary == lab / "tags.json"
    encoded: Counter[str] = Counter()
    encode = TextGuidance._encode
    monkeypatch.setattr(
        TextGuidance, "_encode", lambda self, texts: encoded.update(texts) or encode(self, texts)
    )
    if size == "1600m":  # the same recipe but for its size
        return
    folder = train(raw)
    assert encoded == dict.fromkeys(TAGS, 1), "once, by the first run"
    (tokens,) = lab.glob("tags.tokens-*.safetensors")
    tokens.unlink()
    pipe = LinearSRPipeline.from_pretrained(folder)
    result = pipe(Image.new("RGB", (16, 16), (200, 30, 90)))
    assert set(result.tags[0]) == set(TAGS)


def test_guidance_of_another_width_starts_a_projection(lab: Path, tmp_path: Path) -> None:
    """CLIP and DINO are not as wide as SANA's text; in the plan, too. They need no tags."""
    (tmp_path / "wide").mkdir()
    config = json.loads((CONFIGS / "guidance/clip/config.json").read_text())
    (tmp_path / "wide/config.json").write_text(json.dumps(config))
    no_tags = "common.data.tags=none.json"
    raw = paper("600m", lab, tmp_path / "run", f"{PART}={tmp_path}/wide", no_tags)
    runs = plan(parse(raw), "recipe.yaml")[:1]
    told = described(runs)["pretrain"]
    assert told["memory"].endswith("; without the encoder of stage.guidance")
    assert "time" not in told
    assert described(runs, rate=0.002)["pretrain"]["time"] == "0.3 hours at 0.002 images per second (--rate)"
    objective = check(runs)["pretrain"]
    assert objective.flow.transformer.config.caption_channels == 1024  # type: ignore[attr-defined]


def test_the_text_encoder_is_counted(lab: Path, tmp_path: Path) -> None:
    """One that stays is a frozen part; one whose tags are all known leaves before the first step."""
    raw = paper("600m", lab, tmp_path / "run")
    size = (lab / "text_encoder/model.safetensors").stat().st_size / 2**20
    told = described(plan(parse(raw), "recipe.yaml")[:1])["pretrain"]
    assert told["tags"] == "3 of 3 photos have some of the 4 known tags"
    passing = told["memory"]
    assert passing.endswith(f"; before the first step, the text encoder alone, {size:.0f} MiB")
    config = json.loads((lab / "tags/config.json").read_text())
    (lab / "joined").mkdir(exist_ok=True)
    (lab / "joined/config.json").write_text(json.dumps({**config, "separate": False}))
    raw["stages"]["pretrain"]["stage"]["guidance"]["part"] = str(lab / "joined")
    staying = described(plan(parse(raw), "recipe.yaml")[:1])["pretrain"]["memory"]
    assert "text encoder" not in staying
    assert "without" not in staying


def test_tags_are_not_used_without_a_tagger(lab: Path, tmp_path: Path) -> None:
    recipe = parse(paper("600m", lab, tmp_path / "run", "parts.tagger=null"))
    with pytest.raises(ConfigError, match=r"^model\.use_tags: the model has no tagger: set parts\.tagger"):
        check_model(recipe, plan(recipe, "recipe.yaml"), {})


def test_tags_that_are_still_to_be_made_are_named_as_such(lab: Path, tmp_path: Path) -> None:
    runs = plan(parse(paper("600m", lab, tmp_path / "run", "common.data.tags=none.json")), "recipe.yaml")
    with pytest.raises(
        ConfigError, match=r"^pretrain: data\.tags: none\.json cannot .*`linearsr tag` writes"
    ):
        check(runs)
