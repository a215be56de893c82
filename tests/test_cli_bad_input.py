"""Bad input and wrong use: one line each, the right exit status, and the good files beside it are done."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

from commands import linearsr, refused
from image_tools import BAD_BYTES, noise
from linearsr.pipeline import LinearSRPipeline

GOOD = ("good.png", "one_pixel.png", "sub/good.jpg")


BAD = {f"{kind}.png": data for kind, (data, _) in BAD_BYTES.items()} | {
    "line\nbreak.png": b"",
    "\x1b[31mred.png": b"no image",
    os.fsdecode(b"not-utf8-\xff.png"): b"no image",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    noise(folder / "good.png", 50, 40)
    noise(folder / "one_pixel.png", 1, 1)
    noise(folder / "sub/good.jpg", 50, 40)
    return folder


def test_each_bad_file_is_one_line_and_the_good_ones_are_done(upscale, photos, tmp_path):
    for name, content in BAD.items():
        (photos / name).write_bytes(content)
    os.symlink("nowhere.png", photos / "broken_link.png")
    os.symlink("circle.png", photos / "circle.png")
    os.mkfifo(photos / "pipe.png")
    (tmp_path / "nothing inside").mkdir()
    named = [tmp_path / "missing.png", tmp_path / "nothing inside", tmp_path / "*.none", "/dev/null"]
    named.append(tmp_path / ("n" * 300 + ".png"))
    if os.geteuid() != 0:
        (photos / "locked.png").touch(mode=0)
        (photos / "locked.png").write_bytes(b"x")
    bad = len(list(photos.rglob("*.*"))) - len(GOOD) + len(named)
    assert bad >= 44

    result = upscale(photos, *named, "-o", tmp_path / "out", "--strict")

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1] == f"{len(GOOD)} done, {bad} failed"
    assert len(lines) == len(GOOD) + bad + 1
    assert "Traceback" not in result.stderr
    assert all(character.isprintable() for text in lines for character in text)
    done = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert done == {"photos/good.png", "photos/one_pixel.png", "photos/sub/good.png", ".linearsr-results"}


def test_one_bad_file_alone(upscale, photos):
    result = upscale(photos / "missing.png", "--json")
    assert result.exit_code == 1
    assert result.stderr == f"{photos / 'missing.png'}: no such file\n"
    assert '"status": "failed"' in result.stdout


def test_disk_full(upscale, photos, monkeypatch):
    real, count = Path.write_bytes, iter(range(10))

    def full_once(path: Path, data: bytes) -> int:
        if next(count) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_once)
    result = upscale(photos)
    assert result.exit_code == 1
    assert "good_x4.png: cannot be written: the disk is full" in result.stderr.splitlines()[0]
    assert not (photos / "good_x4.png").exists()
    assert (photos / "sub/good_x4.png").exists()
    assert not [path for path in photos.rglob("*") if ".part" in path.name]


def test_a_folder_in_the_way_of_one_result(upscale, photos):
    (photos / "good_x4.png").mkdir()
    result = upscale(photos, "--overwrite")
    assert result.exit_code == 1
    assert "good_x4.png: is a folder" in result.stderr
    assert (photos / "sub/good_x4.png").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("first\nsecond"), "RuntimeError: first second"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), "not enough memory"),
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_an_unforeseen_error_is_one_line_and_the_others_go_on(upscale, photos, monkeypatch, error, line):
    real = LinearSRPipeline.upscale

    def fails_once(pipeline: LinearSRPipeline, picture, **options):
        if picture.size == (1, 1):
            raise error
        return real(pipeline, picture, **options)

    monkeypatch.setattr(LinearSRPipeline, "upscale", fails_once)
    result = upscale(photos)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[1].startswith(f"{photos / 'one_pixel.png'}: {line}")
    assert lines[-1] == "2 done, 1 failed"
    raised = upscale(photos, "--overwrite", env={"LINEARSR_DEBUG": "1"})
    assert raised.exception is error


WRONG_OPTIONS = [
    ["--scale", "9"],
    ["--scale", "0.5"],
    ["--scale", "nan"],
    ["--scale", "large"],
    ["--steps", "-1"],
    ["--fidelity", "1.5"],
    ["--seed", "-1"],
    ["--device", "toaster"],
    ["--device", "cuda:99"],
    ["--dtype", "int8"],
    ["--color-fix", "sepia"],
    ["--format", "bmp"],
    ["--quality", "0"],
    ["--max-pixels", "0"],
    ["--no-such-option"],
    ["-o", "/dev/null/out"],
    ["-o", "out.bmp"],
    ["-o", "out.png", "--format", "jpg"],
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=" ".join)
def test_wrong_options(upscale, photos, options):
    result = upscale(photos / "good.png", *options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert not (photos / "good_x4.png").exists()


def test_no_input_and_no_such_command(upscale):
    assert upscale().exit_code == 2
    assert linearsr("enlarge").exit_code == 2


@pytest.mark.parametrize("damage", ["missing", "empty", "no json", "no weights", "damaged", "pickle"])
def test_bad_model(upscale, photos, tiny_model, tmp_path, damage):
    folder = tmp_path / "model"
    weights = folder / "lr_stem/diffusion_pytorch_model.safetensors"
    if damage != "missing":
        shutil.copytree(tiny_model, folder)
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "no json":
        (folder / "model_index.json").write_text("{")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "damaged":
        weights.write_bytes(weights.read_bytes()[:-8])
    elif damage == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    assert str(folder) in refused(upscale(photos, "--model", folder))
