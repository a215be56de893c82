"""`linearsr upscale` on images that do not fit the memory: same pixels in strips, and nothing left behind."""

import errno
import json
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from commands import done, refused
from image_tools import smooth_picture
from linearsr.cli.console import BatchProgress
from linearsr.images.reading import read_image
from linearsr.images.writing import write_image
from linearsr.jobs.large import work_folder_of
from linearsr.models.codec import ResidualCodec

HEIGHT, WIDTH = 37, 29
TINY = ("--memory-limit", 1e-9)
"""One row at a time."""


def picture(channels, bits):
    return smooth_picture(HEIGHT, WIDTH, channels, bits)


@pytest.fixture
def photo(tmp_path):
    write_image(picture(3, 8), tmp_path / "a.png")
    return tmp_path / "a.png"


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("source", "channels", "bits", "target"),
    [
        ("a.png", 3, 8, "out.png"),
        ("a.png", 3, 16, "out.png"),
        ("a.png", 1, 8, "out.png"),
        ("a.png", 4, 8, "out.png"),
        ("a.png", 4, 16, "out.tif"),
        ("a.tif", 1, 16, "out.tif"),
        ("a.tif", 3, 8, "out.jpg"),
        ("a.jpg", 3, 8, "out.png"),
    ],
)
def test_strips_give_the_picture_in_one_piece(upscale, tmp_path, source, channels, bits, target):
    write_image(picture(channels, bits), tmp_path / source)
    results = []
    for name, limit in (("whole", ()), ("strips", TINY)):
        (tmp_path / name).mkdir()
        output = tmp_path / name / target
        run = done(upscale(tmp_path / source, "-o", output, "-v", *limit))
        assert ("in strips of 1 row," in run.stderr) == (name == "strips")
        assert entries(tmp_path / name) == [target]
        results.append(read_image(output))
    whole, strips = results
    assert (strips.bits, strips.size, strips.colour.shape) == (whole.bits, whole.size, whole.colour.shape)
    most = 4 if target.endswith("jpg") else 1.01  # JPEG may round a difference of 1 up
    np.testing.assert_allclose(strips.colour, whole.colour, atol=most / 255)
    assert (strips.alpha is None) == (whole.alpha is None)
    if whole.alpha is not None:
        np.testing.assert_allclose(strips.alpha, whole.alpha, atol=1.01 / 255)


@pytest.mark.parametrize("options", [("--scale", 2.5), ("--color-fix", "wavelet")])
def test_other_scales_and_colour_fixes(upscale, tmp_path, photo, options):
    for name, limit in (("whole", ()), ("strips", TINY)):
        output = tmp_path / f"{name}.png"
        assert upscale(photo, "-o", output, *options, *limit).exit_code == 0
    whole, strips = (read_image(tmp_path / f"{name}.png") for name in ("whole", "strips"))
    assert strips.size == whole.size
    np.testing.assert_allclose(strips.colour, whole.colour, atol=1.01 / 255)


@pytest.mark.parametrize("limit", [(), TINY])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_not_finite_is_named_and_the_run_goes_on(
    upscale, tmp_path, photo, monkeypatch, limit, value
):
    Image.new("RGB", (WIDTH + 9, 5), "red").save(tmp_path / "b.png")
    decode = ResidualCodec.decode

    def broken(self, latent, condition):
        image = decode(self, latent, condition)
        return image * value if image.shape[-1] < 4 * (WIDTH + 9) else image

    monkeypatch.setattr(ResidualCodec, "decode", broken)
    run = upscale(photo, tmp_path / "b.png", "-o", tmp_path / "out", *limit)
    assert run.exit_code == 1
    said = [line for line in run.stderr.splitlines() if "not finite" in line]
    assert len(said) == 1
    assert said[0].startswith(f"{photo}: the result has values that are not finite")
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["b.png"]


def test_json_is_that_of_any_image(upscale, tmp_path, photo):
    run = upscale(photo, "-o", tmp_path / "b.png", "--json", "--seed", 3, *TINY)
    record = json.loads(run.stdout)
    assert (record["status"], record["size"], record["seed"]) == ("done", [4 * WIDTH, 4 * HEIGHT], 3)


# ---------------------------------------------------------------- what is left behind


def interrupt_at(monkeypatch, doing, action):
    def report(self, path, now, done):
        if now.startswith(doing):
            action()

    monkeypatch.setattr(BatchProgress, "show_share", report)


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing(upscale, tmp_path, photo, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_at(patched, "step", interrupt)
        assert upscale(photo, *TINY).exit_code == 130
    assert entries(tmp_path) == ["a.png"]


def test_what_a_killed_run_left_is_removed(upscale, tmp_path, photo):
    folder = work_folder_of(tmp_path / "a_x4.png")
    (folder / "linearsr-old").mkdir(parents=True)
    (folder / "output.rows").write_bytes(b"0" * 100)
    assert upscale(photo, *TINY).exit_code == 0
    assert upscale(photo, "-o", tmp_path / "b.png", *TINY).exit_code == 0
    assert entries(tmp_path) == ["a.png", "a_x4.png", "b.png"]
    assert (tmp_path / "a_x4.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_two_processes_do_not_work_on_one_result(upscale, tmp_path, photo):
    folder = work_folder_of(tmp_path / "a_x4.png")
    folder.mkdir()
    with FileLock(folder / "lock"):
        said = refused(upscale(photo, *TINY), 1)
    assert "another process is writing it" in said
    assert folder.is_dir()


# ---------------------------------------------------------------- what goes wrong


def test_too_little_disk_is_said_before_the_start(upscale, tmp_path, photo, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert "GB of disk" in refused(upscale(photo, *TINY), 1)
    assert entries(tmp_path) == ["a.png"]


def test_a_full_disk_is_one_line(upscale, tmp_path, photo, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("linearsr.images.rows.row_file.RowFile.append", full)
    assert "the disk is full" in refused(upscale(photo, *TINY), 1)
    assert "a_x4.png" not in entries(tmp_path)


def test_broken_and_too_large_files_leave_nothing(upscale, tmp_path, photo):
    data = photo.read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    cut = tmp_path / "cut.png"
    run = upscale(cut, photo, "-o", tmp_path / "out", "--strict", *TINY)
    assert run.exit_code == 1
    assert "is truncated" in run.stderr
    assert entries(tmp_path / "out") == [".linearsr-results", "a.png"]
    assert "exceed the limit" in refused(upscale(photo, "--max-pixels", 100, *TINY), 1)
    assert entries(tmp_path) == ["a.png", "cut.png", "out"]


def test_a_limit_below_one_strip_is_exceeded_with_a_warning(upscale, photo):
    run = upscale(photo, *TINY)
    assert run.exit_code == 0
    said = "a.png: warning: it may take more memory than --memory-limit allows: in strips of 1 row, about "
    assert said in run.stderr
    enough = upscale(photo, "--overwrite", "-v", "--memory-limit", 0.002)
    assert "in strips of" in enough.stderr
    assert "warning" not in enough.stderr


def test_without_the_extra(upscale, tmp_path, photo, monkeypatch):
    from linearsr.images.rows.vips import vips

    vips.cache_clear()
    monkeypatch.setitem(sys.modules, "pyvips", None)
    assert "pip install 'linearsr[large]'" in refused(upscale(photo, *TINY), 1)
    held = done(upscale(photo, "-v", "--memory-limit", 0.0005))
    assert "for the result" in held.stderr
    assert Path(tmp_path / "a_x4.png").is_file()
