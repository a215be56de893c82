"""Guidance by sentences: a model that learned from them is told one, never what a tagger finds."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import document, done, linearsr, refused
from full_size_model import add_part, write_full_size_model
from linearsr import LinearSRPipeline
from linearsr.guidance.text import TextGuidance, TextGuidanceConfig
from linearsr.training.guidance import GuidanceSettings, disturbed

SENTENCE = "An old brick wall, with ivy, on a grey day"
GUIDANCE = TextGuidance(TextGuidanceConfig(sentences=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has a tagger, and is to use its tags."""
    folder = write_full_size_model(tmp_path_factory.mktemp("model"))
    add_part(folder, "guidance", "TextGuidance", channels=16, sentences=True)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "use_tags": True}))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "val").mkdir()
    Image.linear_gradient("L").convert("RGB").resize((64, 64)).save(tmp_path / "val/wall.png")
    return tmp_path / "val"


def test_a_sentence_is_one_text() -> None:
    words = SENTENCE.split(", ")
    assert GUIDANCE.understand([*words, words[0]]) == ([f"{SENTENCE}, {words[0]}"], [])


def test_a_sentence_is_told_whole_or_not_at_all() -> None:
    settings = GuidanceSettings(part=Path("part"), dropout=0.25, tag_dropout=0.9, false_tags=1.0)
    bags = torch.eye(2).repeat(500, 1)
    found = disturbed(bags, list(range(1000)), settings, GUIDANCE)
    assert torch.equal(found.tags, bags)
    assert float(found.unguided.float().mean()) == pytest.approx(0.25, abs=0.05)


def test_what_the_tagger_finds_is_no_sentence(model: Path) -> None:
    pipe, image = LinearSRPipeline.from_pretrained(model), Image.new("RGB", (16, 16), (200, 30, 90))
    assert pipe(image).tags == [()]
    assert pipe(image, tags=SENTENCE).tags == [(SENTENCE,)]


def test_an_evaluation_wants_a_sentence_for_each_photo(model: Path, photos: Path, tmp_path: Path) -> None:
    asked = ("eval", "--data", photos, "--model", model, "--metrics", "psnr_rgb", "-o", tmp_path / "out")
    assert "give --tags FILE.json with one for each photo" in refused(linearsr(*asked))
    file = tmp_path / "sentences.json"
    file.write_text("{}")
    assert "does not name 'val/wall.png'" in refused(linearsr(*asked, "--tags", file))
    file.write_text(json.dumps({"val/wall.png": [SENTENCE]}))
    measured = document(linearsr(*asked, "--tags", file, "--json"))
    done(linearsr("degrade", photos, "-o", tmp_path / "lr"))
    told = LinearSRPipeline.from_pretrained(model)(tmp_path / "lr/wall.png", tags=SENTENCE)
    made = Image.open(tmp_path / "out/results/wall.png")
    assert made.tobytes() == told.images[0].tobytes()
    file.write_text(json.dumps({"val/wall.png": ["A cat in snow"]}))
    other = document(linearsr(*asked, "--tags", file, "--overwrite", "--json"))
    assert other["settings"]["tags"] != measured["settings"]["tags"]
    assert other["metrics"]["psnr_rgb"]["mean"] != measured["metrics"]["psnr_rgb"]["mean"]


def test_tags_are_for_a_model(photos: Path) -> None:
    assert "--tags: results in PRED_DIR are made already" in refused(
        linearsr("eval", photos, photos, "--tags", "tags.json")
    )
