"""The tagger of the default model: its network, what it gives, how it is trained and calibrated."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F

from commands import done, linearsr
from linearsr.guidance.own_tagger import Lite0, OwnTagger, OwnTaggerConfig, read_published
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import default_model_folder
from linearsr.runtime.checkpoints import CheckpointError
from linearsr.training.data import to_tensor
from linearsr.training.tagger import (
    TaggerStage,
    augmented,
    average_precisions,
    best_threshold,
    fit_head,
    is_held_out,
    thresholds,
)
from training_tools import make_photos, published_lite0, weights, write_config

PHOTO = Path(__file__).parents[1] / "examples" / "photo.jpg"
WORDS = ("sky", "tree", "cat", "dog")
CONFIG = OwnTaggerConfig(vocabulary=WORDS, image_size=32, num_blocks=2)


@pytest.fixture
def tagger() -> OwnTagger:
    """One with random weights."""
    torch.manual_seed(0)
    return OwnTagger(CONFIG).eval()


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


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"thresholds": (0.5, 2, 0, 0)}, "0 to 1"),
        ({"vocabulary": ("sky", "Sky")}, "twice"),
        ({"num_blocks": "8"}, "num_blocks must be a whole number of at least 2, not '8'"),
        ({"num_blocks": 1}, "at least 2"),
        ({"image_size": 0}, "at least 1"),
        ({"max_tags": -1}, "at least 0"),
    ],
)
def test_config_refuses_what_makes_no_sense(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        OwnTaggerConfig(**{"vocabulary": WORDS, **settings})


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
    assert average_precisions(scores, labels)[2].isnan()


def test_only_tags_told_from_chance_are_offered():
    scores = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(40, 4)
    labels[scores[:, 0].topk(8).indices, 0] = 1  # ranked perfectly
    labels[(-scores[:, 1]).topk(8).indices, 1] = 1  # ranked backwards
    labels[scores[:, 2].topk(1).indices, 2] = 1  # seen once only
    first, *others = thresholds(scores, labels, versions=1)
    assert first == pytest.approx(float(scores[:, 0].topk(8).values[-1]))
    assert others == [None] * 3
    assert thresholds(scores, 0 * labels, versions=1) == (None,) * 4


def test_the_head_tells_what_can_be_told():
    torch.manual_seed(0)
    features = 50 + 7 * torch.randn(600, 6)
    labels = (features[:, :3] > 50).float()
    scores = fit_head(features, labels)(features).detach()
    assert average_precisions(scores, labels).min() > 0.9


def test_published_weights_fold_into_the_trunk(tmp_path):
    """The same picture through convolutions and batch norms as published."""
    torch.manual_seed(0)
    file = published_lite0(tmp_path / "lite0.pth", num_blocks=1)
    network, state = Lite0(1).eval(), torch.load(file, weights_only=True)
    read_published(file, network)

    def layer(x: torch.Tensor, conv: str, norm: str, act: bool = True, **how: int) -> torch.Tensor:
        x = F.conv2d(x, state[f"{conv}.weight"], **how)
        named = (state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *named, eps=1e-3)
        return F.relu6(x) if act else x

    image = photo(9, 8)[None]
    # an even side is padded at its end only
    stem = layer(F.pad(image, (0, 1, 1, 1)), "_conv_stem", "_bn0", stride=2)
    deep = layer(stem, "_blocks.0._depthwise_conv", "_blocks.0._bn1", padding=1, groups=32)
    block = layer(deep, "_blocks.0._project_conv", "_blocks.0._bn2", act=False)
    with torch.no_grad():
        found = network(image)
    torch.testing.assert_close(found[0], stem)
    torch.testing.assert_close(found[1], block, rtol=1e-4, atol=1e-4)
    with pytest.raises(CheckpointError, match="does not hold the weights of EfficientNet-Lite0"):
        read_published(file, Lite0(2))


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


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_augmented_photos_stay_images(seed):
    rng = np.random.default_rng(seed)
    view = augmented(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), 7, rng)
    assert view.shape == (7, 7, 3)
    assert view.dtype == np.float32
    assert 0 <= view.min() <= view.max() <= 1


def tagger_settings(photos: Path, **stage: object) -> dict[str, object]:
    tags = tag_file(photos)
    return {
        "stage": {
            "kind": "tagger",
            "vocabulary": str(photos.parent / "vocabulary.txt"),
            "trunk": str(photos.parent / "lite0.pth"),
            "tagger": {"num_blocks": 2, "image_size": 16},
            "versions": 2,
            "held_out": 0.3,
            **stage,
        },
        "data": {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0, "tags": str(tags)},
        "validation": {"folder": str(photos), "every_images": 120, "max_pictures": 4},
    }


def test_a_tagger_is_made_of_photos_with_tags(tmp_path, caplog):
    photos, run = make_photos(tmp_path / "photos", count=12), tmp_path / "run"
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes()[:200])
    raw = tagger_settings(photos)
    config = write_config(tmp_path / "a.yaml", photos, run, **raw)
    missing = linearsr("train", config, "--dry-run")
    assert missing.exit_code == 2
    assert "stage.trunk" in missing.output
    torch.manual_seed(0)
    published_lite0(tmp_path / "lite0.pth", num_blocks=2)
    assert "without training" in linearsr("train", config, "--dry-run").output
    done(linearsr("train", config))
    assert "broken.png" in caplog.text
    tagger = OwnTagger.from_pretrained(run / "knee" / "tagger")
    assert tagger.config.vocabulary[:2] == ("any", "photo 0")
    assert set(tagger.offered) <= {"any"}  # what a single photo has cannot be told from chance
    assert 0 < json.loads((run / "knee.json").read_text())["map"] <= 1
    again = write_config(tmp_path / "b.yaml", photos, tmp_path / "again", **raw)
    done(linearsr("train", again))
    same = weights(tmp_path / "again" / "knee" / "tagger")
    assert all(torch.equal(part, same[name]) for name, part in weights(run / "knee" / "tagger").items())


def test_photos_held_out_are_about_their_share():
    held = sum(is_held_out(f"{i}.png", 0.3) for i in range(1000))
    assert held == pytest.approx(300, abs=50)


def test_a_stage_that_could_not_be_calibrated_is_refused():
    given = {"kind": "tagger", "vocabulary": Path("v.txt"), "trunk": Path("t.pth")}
    with pytest.raises(ValidationError, match="held_out"):
        TaggerStage(**given, held_out=0)
    with pytest.raises(ValidationError, match="thresholds is found out"):
        TaggerStage(**given, tagger={"thresholds": [0.1]})


@pytest.fixture(scope="module")
def shipped() -> OwnTagger:
    return OwnTagger.from_pretrained(default_model_folder() / "tagger")


def test_the_shipped_tagger_is_small_and_weak_tags_are_not_offered(shipped):
    assert sum(path.stat().st_size for path in (default_model_folder() / "tagger").iterdir()) < 2e6
    assert len(shipped.config.vocabulary) == 160
    assert {"sky", "tree", "building", "grass"} <= shipped.offered.keys()
    assert "umbrella" not in shipped.offered


@pytest.mark.parametrize("degradation", ["bicubic", "mild", "realesrgan"])
def test_the_shipped_tagger_sees_a_building_under_the_sky(shipped, degradation):
    hr = crop_to_multiple(read_rgb(PHOTO), 4)
    lr = degrade(hr, PRESETS[degradation], file_generator(0, PHOTO.stem), 4)
    expected = {"building"} if degradation == "realesrgan" else {"building", "sky"}
    assert expected <= {tag.name for tag in shipped.tag(to_tensor(lr))}
