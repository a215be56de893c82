"""`linearsr degrade`: what it writes is what validation measures on."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import done, linearsr
from image_tools import smooth_photo
from linearsr.images.degradation import PRESETS
from linearsr.training.data import to_tensor
from linearsr.training.validation import validation_pairs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "hr"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in [("a.png", (41, 38)), ("b.jpg", (36, 44)), ("sub/c.webp", (32, 32))]:
        smooth_photo(rng, size, (8, 9)).save(folder / name)
    Image.fromarray(rng.integers(0, 256, (33, 32), dtype=np.uint8)).save(folder / "grey.png")
    return folder


degrade = partial(linearsr, "degrade")


@pytest.mark.parametrize("preset", PRESETS)
def test_equals_validation(photos, tmp_path, preset):
    done(degrade(photos, "-o", tmp_path / "lr", "--preset", preset))
    pairs = validation_pairs(photos, preset, scale=4, max_pictures=10)
    assert len(pairs) == 4
    for name, expected, hr in pairs:
        (file,) = (tmp_path / "lr").rglob(f"{name}.png")
        with Image.open(file) as image:
            lr = to_tensor(np.asarray(image.convert("RGB"), dtype=np.float32) / 255)
        assert torch.equal(lr, expected)
        assert hr.shape[1:] == (lr.shape[1] * 4, lr.shape[2] * 4)


def test_tree_sizes_and_json(photos, tmp_path):
    result = degrade(photos, "-o", tmp_path / "lr", "--scale", 3, "--seed", 5, "--json")
    records = {Path(record["input"]).name: record for record in map(json.loads, result.stdout.splitlines())}
    assert records["c.webp"]["output"] == str(tmp_path / "lr/sub/c.png")
    assert records["a.png"]["size"] == [13, 12]
    assert (records["b.jpg"]["seed"], records["b.jpg"]["preset"], records["b.jpg"]["scale"]) == (5, "mild", 3)


def test_photos_are_not_degraded_in_place(photos):
    before = sorted(photos.rglob("*"))
    result = degrade(photos, "-o", photos / f"../{photos.name}")
    assert (result.exit_code, sorted(photos.rglob("*"))) == (2, before)
    assert "is the folder of the HR photos" in result.stderr


def test_seed_and_neighbours(photos, tmp_path):
    def run(folder: str, *options: object) -> bytes:
        assert degrade(photos, "-o", tmp_path / folder, *options).exit_code == 0
        return (tmp_path / folder / "a.png").read_bytes()

    first, other = run("1"), run("2", "--seed", 1)
    (photos / "b.jpg").unlink()
    assert run("3") == first
    assert other != first


def test_skips_overwrites_and_goes_on(photos, tmp_path):
    (photos / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (3, 50)).save(photos / "tiny.png")
    result = degrade(photos, "-o", tmp_path / "lr")
    assert result.exit_code == 1
    assert "tiny.png: 3x50 is too small" in result.stderr
    assert result.stderr.splitlines()[-1] == "4 done, 2 failed"
    again = degrade(photos, "-o", tmp_path / "lr")
    assert again.stderr.splitlines()[-1] == "4 skipped, 2 failed"
    assert degrade(photos, "-o", tmp_path / "lr", "--overwrite").stderr.splitlines()[-1] == "4 done, 2 failed"


def test_wrong_use(photos, tmp_path):
    out = tmp_path / "lr"
    for arguments in (
        [photos],
        [tmp_path / "none", "-o", out],
        [photos, "-o", out, "--preset", "awful"],
        [photos, "-o", photos / "a.png"],
        [photos, "-o", out, "--scale", 0],
    ):
        result = degrade(*arguments)
        assert result.exit_code == 2, arguments
        assert isinstance(result.exception, SystemExit)
    assert not out.exists()
