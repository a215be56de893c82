"""The tagger of the default model: its network, what it gives, how it is trained and calibrated."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from linearsr.cli.app import app
from linearsr.evaluation.tagging import average_precisions, mean_average_precision
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import default_model_folder
from linearsr.runtime.checkpoints import CheckpointError
from linearsr.training import tagger as tagger_stage
from linearsr.training.data import DataConfig, to_tensor
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.tagger import TaggerStage, best_threshold, calibrated
from linearsr.training.tagger_data import Augmentation, TagSamples, augmented, is_held_out
from training_tools import losses, make_photos, read_records, weights, write_config

PHOTO = Path(__file__).parents[1] / "examples" / "photo.jpg"
WORDS = ("sky", "tree", "cat", "dog")
CONFIG = OwnTaggerConfig(vocabulary=WORDS, image_size=32, channels=8, num_stages=2)


@pytest.fixture
def tagger() -> OwnTagger:
    """One with random weights, and statistics that are not those it began with."""
    torch.manual_seed(0)
    made = OwnTagger(CONFIG).train()
    with torch.no_grad():
        made(torch.rand(8, 3, 40, 40) * 2 - 1)
    return made.eval()


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2), (17, 5), (64, 64), (701, 333)])
def test_photos_of_any_size_are_tagged(tagger, size):
    logits = tagger(photo(*size)[None])
    assert logits.shape == (1, len(WORDS))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert len(tagger.tag(photo(*size), threshold=0)) == len(WORDS)


def test_a_photo_is_tagged_by_itself(tagger):
    batch = torch.stack([photo(30, 50, seed) for seed in range(3)])
    with torch.no_grad():
        alone = torch.cat([tagger(lr[None]) for lr in batch])
        torch.testing.assert_close(tagger(batch), alone)
    assert tagger.tag(batch[0]) == tagger.tag(batch[0])


def test_bfloat16_says_nearly_the_same(tagger):
    scores = {tag.name: tag.score for tag in tagger.tag(photo(40, 40), threshold=0)}
    for tag in tagger.bfloat16().tag(photo(40, 40), threshold=0):
        assert tag.score == pytest.approx(scores[tag.name], abs=0.05)


def test_thresholds_and_numbers_are_honoured(tagger):
    scores = dict(tagger.tag(photo(40, 40), threshold=0))
    best = max(scores, key=scores.__getitem__)
    limits = {name: score if name == best else min(1.0, score + 1e-3) for name, score in scores.items()}
    strict = OwnTagger.from_state(
        replace(CONFIG, thresholds=tuple(limits[name] for name in WORDS)), tagger.state_dict(), ""
    )
    assert [tag.name for tag in strict.tag(photo(40, 40))] == [best]
    found = strict.tag(photo(40, 40), threshold=0)
    assert [tag.score for tag in found] == sorted(scores.values(), reverse=True)
    assert strict.tag(photo(40, 40), threshold=0, max_tags=2) == found[:2]
    fewer = OwnTagger.from_state(replace(CONFIG, max_tags=1), tagger.state_dict(), "")
    assert len(fewer.tag(photo(40, 40), threshold=0)) == 1
    with pytest.raises(ValueError, match="threshold"):
        strict.tag(photo(40, 40), threshold=1.5)


def test_tags_that_are_not_offered_are_never_given(tagger):
    some = OwnTagger.from_state(replace(CONFIG, thresholds=(None, 0.3, None, 0.4)), tagger.state_dict(), "")
    assert some.offered == {"tree": 0.3, "dog": 0.4}
    assert {tag.name for tag in some.tag(photo(40, 40), threshold=0)} == {"tree", "dog"}
    none = OwnTagger.from_state(replace(CONFIG, thresholds=(None,) * 4), tagger.state_dict(), "")
    assert none.tag(photo(40, 40), threshold=0) == []


def test_a_tagger_is_a_folder(tagger, tmp_path):
    some = OwnTagger.from_state(replace(CONFIG, thresholds=(None, 0.3, 0.2, 0.1)), tagger.state_dict(), "")
    some.save_pretrained(tmp_path)
    again = OwnTagger.from_pretrained(tmp_path)
    assert again.config == some.config
    assert again.tag(photo(9, 9)) == some.tag(photo(9, 9))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "thresholds": [0.5]}))
    with pytest.raises(CheckpointError, match="1 thresholds for 4 tags"):
        OwnTagger.from_pretrained(tmp_path)


def test_config_refuses_what_makes_no_sense():
    with pytest.raises(ValueError, match="0 to 1"):
        OwnTaggerConfig(WORDS, thresholds=(0.5, 2, 0, 0))
    with pytest.raises(ValueError, match="twice"):
        OwnTaggerConfig(("sky", "Sky"))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_the_best_threshold_is_that_of_a_search(pairs):
    scores = torch.tensor([score / 5 for score, _ in pairs])
    labels = torch.tensor([float(label) for _, label in pairs])

    def measure(threshold: float) -> float:
        given = (scores >= threshold).float()
        hits = (given * labels).sum()
        precision, recall = hits / given.sum(), hits / max(1, labels.sum())
        return float(1.25 * precision * recall / (0.25 * precision + recall)) if hits else 0.0

    found = best_threshold(scores, labels, beta=0.5)
    assert measure(found) == pytest.approx(max(measure(float(score)) for score in scores))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_average_precision_is_the_mean_precision_at_each_hit(pairs):
    scores = torch.tensor([[float(score)] for score, _ in pairs])
    labels = torch.tensor([[float(label)] for _, label in pairs])
    hits = [score for score, label in pairs if label]
    precisions = [
        sum(label for other, label in pairs if other >= score) / sum(other >= score for other, _ in pairs)
        for score in hits
    ]
    value = float(average_precisions(scores, labels)[0])
    assert np.isnan(value) if not hits else value == pytest.approx(np.mean(precisions), abs=1e-5)


def test_constant_scores_have_the_precision_of_chance():
    labels = torch.tensor([[1.0, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    scores = torch.tensor([0.5, 0.2, 0.1]).expand(4, 3)
    assert average_precisions(scores, labels)[:2].tolist() == [0.5, 0.25]
    assert mean_average_precision(scores, labels) == pytest.approx(0.375)


def test_only_tags_told_from_chance_are_offered(tagger):
    lrs = [photo(20, 20, seed) for seed in range(40)]
    with torch.no_grad():
        known = torch.stack([tagger(lr[None])[0] for lr in lrs])
    labels = torch.zeros(40, 4)
    labels[known[:, 0].topk(8).indices, 0] = 1  # ranked perfectly
    labels[(-known[:, 1]).topk(8).indices, 1] = 1  # ranked backwards
    labels[known[:, 2].topk(1).indices, 2] = 1  # seen once only
    offered = calibrated(tagger, zip(lrs, labels, strict=True), versions=1).offered
    assert set(offered) == {"sky"}
    assert calibrated(tagger, zip(lrs, 0 * labels, strict=True), versions=1).offered == {}


def tag_file(folder: Path) -> Path:
    """Tags of the photos of `make_photos`: each has one of its own, and one that all have."""
    names = sorted(path.name for path in folder.glob("*.png"))
    tags = {f"{folder.name}/{name}": [f"photo {i}", "any"] for i, name in enumerate(names)}
    path = folder.parent / "tags.json"
    path.write_text(json.dumps(tags))
    (folder.parent / "vocabulary.txt").write_text(
        "\n".join(["any", *(f"photo {i}" for i in range(len(names)))])
    )
    return path


def samples(photos: Path, **changes: float) -> TagSamples:
    file = tag_file(photos)
    vocabulary = Vocabulary((photos.parent / "vocabulary.txt").read_text().splitlines())
    augmentation = Augmentation(mixup=changes.pop("mixup", 0.5))
    return TagSamples(
        DataConfig(folders={photos: 1.0}, lr_crop=8, workers=0),
        scale=4,
        seed=3,
        length=40,
        photo_tags=PhotoTags(file, vocabulary),
        side=12,
        versions=2,
        augmentation=augmentation,
        held_out=changes.pop("held_out", 0.0),
    )


def test_samples_follow_from_their_number(tmp_path):
    photos = make_photos(tmp_path / "photos")
    first, second = samples(photos), samples(photos)
    backwards = [second[i] for i in reversed(range(6))][::-1]
    for i, other in enumerate(backwards):
        sample = first[i]
        assert sample.lr.shape == (3, 12, 12)
        assert sample.lr.abs().max() <= 1
        assert sample.tags.shape == (4,)
        assert sample.tags[0] == 1  # what all photos have is in every blend
        assert torch.equal(sample.lr, other.lr)
        assert torch.equal(sample.tags, other.tags)


def test_samples_do_not_depend_on_which_photos_are_known_to_be_broken(tmp_path):
    photos = make_photos(tmp_path / "photos")
    first = sorted(photos.glob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:200])  # its header is whole
    backwards, forwards = samples(photos), samples(photos)
    late = [backwards[i] for i in reversed(range(20))][::-1]
    for i in range(20):
        assert torch.equal(forwards[i].lr, late[i].lr)


def test_photos_held_out_are_never_drawn(tmp_path):
    photos = make_photos(tmp_path / "photos", count=12)
    held = [i for i, path in enumerate(sorted(photos.glob("*.png"))) if is_held_out(str(path), 0.3)]
    assert 0 < len(held) < 12
    drawn = samples(photos, held_out=0.3, mixup=0.0)
    seen = torch.stack([drawn[i].tags for i in range(40)]).amax(dim=0)[1:]
    assert not seen[held].any()
    assert seen.sum() > 5
    kept = list(drawn.held_out())
    assert len(kept) == 2 * len(held)
    assert {int(tags[1:].argmax()) for _, tags in kept} == set(held)
    assert all(lr.shape == (3, 8, 8) for lr, _ in kept)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_augmented_photos_stay_images(seed):
    rng = np.random.default_rng(seed)
    view = augmented(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), 7, Augmentation(cutout=1.0), rng)
    assert view.shape == (7, 7, 3)
    assert view.dtype == np.float32
    assert 0 <= view.min() <= view.max() <= 1


def tagger_settings(photos: Path, run_dir: Path, **stage: object) -> dict[str, object]:
    return {
        "batch_size": 8,
        "total_images": 240,
        "save_every_images": 80,
        "stage": {
            "kind": "tagger",
            "vocabulary": str(photos.parent / "vocabulary.txt"),
            "tagger": {"channels": 16, "num_stages": 2, "image_size": 16},
            "augmentation": {"least_area": 0.8, "colour": 0, "cutout": 0, "mixup": 0},
            "versions": 2,
            "held_out": 0.3,
            **stage,
        },
        "data": {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0, "tags": str(tag_file(photos))},
        "validation": {"folder": str(photos), "every_images": 120, "max_pictures": 4},
        "optimizer": {"lr": 1e-2, "warmup_images": 16},
    }


def train(config: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["train", str(config), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_tagger_is_trained_and_resumed(tmp_path):
    photos = make_photos(tmp_path / "photos", count=12)
    whole = tmp_path / "whole"
    config = write_config(tmp_path / "a.yaml", photos, whole, **tagger_settings(photos, whole))
    assert "M parameters" in train(config, "--dry-run")
    train(config)
    curve = [loss for _, loss in losses(whole)]
    assert np.mean(curve[-5:]) < 0.8 * np.mean(curve[:5])
    validations = [record for record in read_records(whole) if "mild/tags/map" in record]
    assert [record["images"] for record in validations] == [120, 240]
    found = OwnTagger.from_pretrained(whole / "knee" / "tagger")
    assert found.config.vocabulary[:2] == ("any", "photo 0")
    assert calibrated_when_finished(config, whole)

    before, parts = losses(whole), weights(whole / "knee" / "tagger")
    shutil.rmtree(whole / "checkpoints" / f"{240:010d}")
    (whole / "knee.json").unlink()
    shutil.rmtree(whole / "knee")
    train(config, "--resume")
    assert losses(whole) == before
    assert all(torch.equal(part, parts[name]) for name, part in weights(whole / "knee" / "tagger").items())
    assert OwnTagger.from_pretrained(whole / "knee" / "tagger").config == found.config


def calibrated_when_finished(config, run):
    """Whether a run that dies while thresholds are looked for is not taken for finished."""

    def dies(*_):
        raise KeyboardInterrupt

    kept = shutil.copytree(run, run.with_name("dies"))
    (kept / "knee.json").unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tagger_stage, "calibrated", dies)
        CliRunner().invoke(app, ["train", str(config), "--resume", "--set", f"run_dir={kept}"])
    return not (kept / "knee.json").exists()


def test_a_stage_that_could_not_be_calibrated_is_refused():
    with pytest.raises(ValidationError, match="held_out"):
        TaggerStage(kind="tagger", vocabulary=Path("v.txt"), held_out=0)
    with pytest.raises(ValidationError, match="thresholds is found out"):
        TaggerStage(kind="tagger", vocabulary=Path("v.txt"), tagger={"thresholds": [0.1]})


@pytest.fixture(scope="module")
def shipped() -> OwnTagger:
    return OwnTagger.from_pretrained(default_model_folder() / "tagger")


def test_the_shipped_tagger_is_small_and_weak_tags_are_not_offered(shipped):
    assert sum(path.stat().st_size for path in (default_model_folder() / "tagger").iterdir()) < 1e6
    assert len(shipped.config.vocabulary) == 160
    assert {"sky", "tree", "building", "grass"} <= shipped.offered.keys()
    assert "umbrella" not in shipped.offered


@pytest.mark.parametrize("degradation", ["bicubic", "mild", "realesrgan"])
def test_the_shipped_tagger_sees_a_building_under_the_sky(shipped, degradation):
    hr = crop_to_multiple(read_rgb(PHOTO), 4)
    lr = degrade(hr, PRESETS[degradation], file_generator(0, PHOTO.stem), 4)
    assert {"building", "sky"} <= {tag.name for tag in shipped.tag(to_tensor(lr))}
