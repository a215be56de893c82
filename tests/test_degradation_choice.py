"""A degradation of one's own: a file in the place of a preset, wherever a preset can be named."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from commands import done, linearsr, refused
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.degradation_choice import EFFECTS, identity, label, named_degradation
from linearsr.images.kernels import _beta
from linearsr.training.data import DataConfig
from linearsr.training.validation import validation_pairs

HR = np.random.default_rng(1).random((96, 64, 3), dtype=np.float32)


def written(folder: Path, text: str, name: str = "own.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_can_say_what_each_preset_says(preset, tmp_path):
    degradation = PRESETS[preset]
    kinds = {effect: kind for kind, effect in EFFECTS.items()}
    values = asdict(degradation)
    for effect, fields in zip(degradation.effects, values["effects"], strict=True):
        fields["kind"] = kinds[type(effect)]
    name = written(tmp_path, yaml.safe_dump(json.loads(json.dumps(values))))
    assert named_degradation(name) == degradation


def test_what_is_left_out_is_as_in_the_class(tmp_path):
    name = written(tmp_path, "orders: [{}, {blur_prob: 0.8}]")
    first, second = named_degradation(name).orders
    assert first == PRESETS["realesrgan"].orders[0]
    assert second.blur_prob == 0.8
    assert second.jpeg_range == first.jpeg_range


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be a mapping of settings"),
        ("a: [", "cannot be read as YAML"),
        ("rounds: []", "unknown setting 'rounds': choose from effects, orders"),
        ("orders: 3", "orders: "),
        ("orders: [3]", "orders: "),
        ("orders: [{blur: 1}]", "orders, number 1: unknown setting 'blur'"),
        ("orders: [{}, {blur_sigma: [3, 1]}]", "orders, number 2: blur_sigma: a range must rise"),
        ("orders: [{noise_range: [-1, 1]}]", "must not be below 0"),
        ("orders: [{noise_range: [.nan, 1]}]", "must not be below 0"),
        ("orders: [{noise_range: [2020-01-01, 1]}]", "date"),
        ("orders: [{blur_prob: 2}]", "a probability is at most 1"),
        ("orders: [{resize_probs: [1, 1, 1]}]", "3 probabilities with a sum of 1"),
        ("orders: [{kernel_probs: [1]}]", "6 probabilities with a sum of 1"),
        ("orders: [{kernel_sizes: [7, 41]}]", "kernels have odd sides from 3 to 21 pixels"),
        ("orders: [{kernel_sizes: [8, 20]}]", "kernels have odd sides from 3 to 21 pixels"),
        ("orders: [{resize_range: [0.3, 0.6]}]", "does not reach 1"),
        ("orders: [{resize_probs: [0, 1, 0], resize_range: [1.5, 2]}]", "does not reach 1"),
        ("effects: [{kind: reposts, sharpen: {probb: 1}}]\norders: [{}]", "sharpen: unknown setting 'probb'"),
        (
            "effects: [{kind: reposts, sharpen: {amount: [2, 1]}}]\norders: [{}]",
            "sharpen: amount: a range must rise",
        ),
        ("effects: [{kind: halftone, prob: 0.001, pitch: [0, 0]}]\norders: [{}]", "cannot be done"),
        ("orders: [{jpeg_range: [0, 90]}]", "the quality of a JPEG is from 1 to 100"),
        ("orders: [{blur_sigma: [0, 0]}]", "cannot be done"),
        ("filters: []", "name at least one"),
        ("filters: [nearest]", "filters: "),
        ("effects: [{kind: rain}]\norders: [{}]", "kind is 'rain': choose from dust, fading"),
        ("effects: [{kind: [rain]}]\norders: [{}]", "kind is ['rain']: choose from dust, fading"),
        ("effects: [{kind: sensor-noise}]\norders: [{}]", "photons: Field required"),
        ("effects: [{kind: shake}]", "give at least one of these in orders"),
    ],
)
def test_one_line_says_what_is_wrong_with_a_file(text, reason, tmp_path):
    name = written(tmp_path, text)
    with pytest.raises(ValueError, match=r"own\.yaml: ") as caught:
        named_degradation(name)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_range_below_one_stays_there(tmp_path):
    name = written(tmp_path, "orders: [{kernel_probs: [0, 0, 0, 0, 1, 0], beta_plateau: [0.5, 0.9]}]")
    for seed in range(50):
        degrade(HR, named_degradation(name), np.random.default_rng(seed))
    drawn = [_beta(np.random.default_rng(seed), (0.2, 0.5)) for seed in range(50)]
    assert 0.2 <= min(drawn) < max(drawn) <= 0.5


def test_names_are_not_taken_twice(tmp_path):
    with pytest.raises(ValueError, match="mild is the name of a preset"):
        named_degradation(written(tmp_path, "orders: [{}]", "mild.yaml"))
    (tmp_path / "a").mkdir()
    first, second = written(tmp_path, "orders: [{}]"), written(tmp_path / "a", "orders: [{}]")
    assert label(first) == label(second) == "own"
    with pytest.raises(ValueError, match="are both called own"):
        DataConfig(folders={tmp_path: 1.0}, degradations={first: 1.0, second: 1.0})


def test_what_a_file_says_is_part_of_what_it_is(tmp_path):
    before = identity(written(tmp_path, "orders: [{blur_prob: 0.5}]"))
    assert identity(written(tmp_path, "{orders: [{blur_prob: 0.50}]}")) == before
    assert identity(written(tmp_path, "orders: [{blur_prob: 0.6}]")) != before
    assert identity("mild") == "mild"


def test_the_command_and_validation_make_the_same_of_it(tmp_path):
    from linearsr.images.picture import Picture
    from linearsr.images.reading import read_image
    from linearsr.images.writing import write_image

    photos = tmp_path / "photos"
    photos.mkdir()
    write_image(Picture(HR), photos / "a.png")
    name = written(tmp_path, "orders: [{noise_range: [5, 9], jpeg_range: [20, 30]}]")
    done(linearsr("degrade", photos, "-o", tmp_path / "lr", "--preset", name))
    lr = read_image(tmp_path / "lr" / "a.png").colour
    ((_, validated, _),) = validation_pairs(photos, name, 4, max_pictures=1)
    np.testing.assert_allclose(lr, (validated.permute(1, 2, 0).numpy() + 1) / 2, atol=1e-6)
    assert np.abs(lr - degrade(HR, PRESETS["mild"], np.random.default_rng(0))).max() > 0.01


@pytest.mark.parametrize(
    "command", [["degrade", "HR", "-o", "LR", "--preset"], ["eval", "--data", "HR", "--degrade"]]
)
def test_commands_say_what_is_wrong(command, tmp_path):
    assert "unknown degradation 'fog': choose from bicubic" in refused(linearsr(*command, "fog"))
    assert "none.yaml: no such file" in refused(linearsr(*command, tmp_path / "none.yaml"))
