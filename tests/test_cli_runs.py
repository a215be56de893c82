"""`linearsr upscale` as a script or a second run meets it: pipes, sizes, lists, times, other runs, a full disk."""

import errno
import io
import json
import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from commands import COMMAND, document, done, linearsr, process, records, refused
from image_tools import encoded, noise, photos
from linearsr.images.writing import file_metadata
from linearsr.pipeline import LinearSRPipeline

__all__ = ["photos"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


# ---------------------------------------------------------------- stdin and stdout


@pytest.mark.parametrize(("output", "kind"), [([], "JPEG"), (["-o", "-"], "JPEG"), ([], "AVIF")])
def test_from_stdin_to_stdout(upscale, photos, output, kind):
    data = (photos / "sub/b.jpg").read_bytes()
    if kind == "AVIF":
        data = encoded(np.asarray(Image.open(io.BytesIO(data))), kind)
    result = done(upscale("-", *output, "--format", "same", input=data))
    assert result.stderr.startswith("- -> - (36x56, ")
    with Image.open(io.BytesIO(result.stdout_bytes)) as image:
        assert (image.format, image.size) == (kind, (36, 56))


def test_from_stdin_to_a_file_and_from_a_file_to_stdout(upscale, photos, tmp_path):
    data = (photos / "a.png").read_bytes()
    record = document(upscale("-", "-o", tmp_path / "b.webp", "--json", input=data))
    assert (record["input"], record["output"]) == ("-", str(tmp_path / "b.webp"))
    out = done(upscale(photos / "a.png", "-o", "-"))
    with Image.open(io.BytesIO(out.stdout_bytes)) as image:
        assert (image.format, image.size) == ("PNG", (48, 40))


def test_avif_by_its_name_and_to_stdout(upscale, photos):
    assert upscale(photos / "a.png", "--format", "avif").exit_code == 0
    out = done(upscale(photos / "a.png", "-o", "-", "--format", "avif"))
    for written in (photos / "a_x4.avif", io.BytesIO(out.stdout_bytes)):
        with Image.open(written) as image:
            assert image.format == "AVIF"


def test_what_is_wrong_with_a_pipe_is_one_line(upscale, photos):
    for given, message in ((b"", "-: is empty"), (b"no image", "-: is not an image")):
        result = upscale("-", input=given)
        assert (result.exit_code, result.stdout_bytes) == (1, b"")
        assert result.stderr.startswith(message)
        assert "linearsr-" not in result.stderr
    for words, message in (
        ((photos, "-o", "-"), "give a folder for several"),
        (("-", "--json"), "--json and the result"),
        (("-", photos), "no folder for its result"),
    ):
        assert message in refused(upscale(*words, input=b"x"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has such a disk")
@pytest.mark.parametrize("words", ["upscale --json", "upscale -o -", "upscale --help", "tag"])
def test_a_full_stdout_is_one_line(photos, served_model, words):
    with open("/dev/full", "wb") as full:
        ended = process(*words.split(), photos / "a.png", "--model", served_model, stdout=full)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert "No space left" in ended.stderr.splitlines()[-1]


def test_a_closed_stdout_is_no_error(photos, tiny_model):
    command = [*COMMAND, "upscale", str(photos / "a.png"), "--model", str(tiny_model)]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], env=ENVIRONMENT, check=False)
    assert closed.returncode == 0
    assert (photos / "a_x4.png").exists()


# ---------------------------------------------------------------- sizes, lists


@pytest.mark.parametrize("way", [[], ["--memory-limit", "0.0001"]])
def test_sizes_of_results(upscale, photos, tmp_path, way):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright: 30 x 40
    noise(tmp_path / "c.jpg", 40, 30, exif=exif.tobytes())
    for asked, name, size in (
        (["--width", 101], "c_101w", (101, 135)),
        (["--height", 101], "c_101h", (76, 101)),
        (["--width", 60, "--height", 1000], "c_60w_1000h", (60, 80)),
        (["--megapixels", 0.012], "c_0.012mp", (95, 126)),
    ):
        done(upscale(tmp_path / "c.jpg", *asked, *way))
        assert size_of(tmp_path / f"{name}.png") == size
    again = upscale(tmp_path, "-o", tmp_path / "out")
    assert "skipped as results of earlier runs: 4" in again.stderr


def test_sizes_that_cannot_be(upscale, photos):
    for asked in (["--width", 5], ["--megapixels", 50]):
        assert "is 12x10 pixels" in refused(upscale(photos / "a.png", *asked), 1)
    assert "cannot be combined" in refused(upscale(photos / "a.png", "--width", 40, "--scale", 2))


def test_a_list_and_a_suffix(upscale, photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos / 'a.png'}\n{photos / 'sub'}\n")
    words = [f"@{tmp_path / 'list.txt'}", "--suffix", "_big", "--format", "jpeg"]
    done(upscale(*words))
    assert (photos / "a_big.jpg").exists()
    assert (photos / "sub/b_big.jpg").exists()
    again = upscale(photos, "--suffix", "_big", "--format", "jpeg", "--json")
    assert [record["status"] for record in records(again)] == ["skipped", "skipped"]


def test_results_inside_the_inputs_are_not_upscaled_by_the_next_run(upscale, photos):
    for name in ("out", "out2"):
        result = done(upscale(photos, "-o", photos / name))
        made = sorted(path.relative_to(photos / name).as_posix() for path in (photos / name).rglob("*.png"))
        assert made == ["a.png", "sub/b.png"]
    assert "skipped as results of earlier runs: 1, such as out" in result.stderr


@pytest.mark.parametrize("command", ["degrade", "tag"])
def test_other_commands_leave_out_folders_of_results(photos, tmp_path, command):
    degrade = ["degrade", str(photos), "-o"]
    assert linearsr(*degrade, str(photos / "lr")).exit_code == 0
    words = [*degrade, str(tmp_path / "lr")] if command == "degrade" else ["tag", str(photos)]
    result = done(linearsr(*words, "--json"))
    assert "skipped as results of earlier runs: 1, such as lr" in result.stderr
    names = [record["input"] for record in records(result)]
    assert names == [str(photos / "a.png"), str(photos / "sub/b.jpg")]


# ---------------------------------------------------------------- other runs, and messages


def test_what_another_run_makes_meanwhile_is_skipped(upscale, photos, monkeypatch):
    """Before the second image begins, and while the first one is computed."""
    real = LinearSRPipeline.upscale

    def race(pipeline, picture, **options):
        noise(photos / "a_x4.png", 3, 3)
        noise(photos / "sub/b_x4.png", 3, 3)
        return real(pipeline, picture, **options)

    monkeypatch.setattr(LinearSRPipeline, "upscale", race)
    result = done(upscale(photos, "--json"))
    assert [record["status"] for record in records(result)] == ["skipped", "skipped"]
    assert "was created by another run in the meantime" in result.stderr
    assert result.stderr.splitlines()[-1] == "2 skipped"
    assert size_of(photos / "a_x4.png") == (3, 3)


@pytest.mark.parametrize(
    ("module", "way"), [("images.writing", []), ("images.rows.writer", ["--memory-limit", 0.0001])]
)
@pytest.mark.parametrize("links", [True, False])
def test_what_another_run_makes_while_a_result_is_encoded_stays(
    upscale, photos, monkeypatch, module, way, links
):
    def race(notes, name, *rest):
        noise(photos / "a_x4.png", 3, 3)
        return file_metadata(notes, name, *rest)

    monkeypatch.setattr(f"linearsr.{module}.file_metadata", race)
    if not links:  # as on FAT
        monkeypatch.setattr(
            "linearsr.runtime.files.os.link", Mock(side_effect=PermissionError(errno.EPERM, ""))
        )
    result = done(upscale(photos / "a.png", *way))
    assert result.stderr.endswith("a_x4.png was created by another run in the meantime\n")
    assert size_of(photos / "a_x4.png") == (3, 3)
    done(upscale(photos / "a.png", *way, "--overwrite"))
    assert size_of(photos / "a_x4.png") == (48, 40)
    done(upscale(photos / "sub/b.jpg", *way))
    assert size_of(photos / "sub/b_x4.png") == (36, 56)
    assert not list(photos.rglob(".*"))


def test_two_runs_on_one_folder(photos, tiny_model):
    for index in range(6):
        noise(photos / f"{index}.png", 24, 24)
    command = [*COMMAND, "upscale", photos, "--model", tiny_model, "--json"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(2)
    ]
    statuses = []
    for run in runs:
        out, errors = run.communicate()
        assert run.returncode == 0, errors
        statuses.append([json.loads(line)["status"] for line in out.splitlines()])
    assert all(sorted(pair) == ["done", "skipped"] for pair in zip(*statuses, strict=True))
    assert len(list(photos.rglob("*_x4.png"))) == 8
    assert not list(photos.rglob(".*"))


def test_a_limit_is_called_by_its_option(upscale, photos, tmp_path):
    refused = upscale(photos / "a.png", "--max-pixels", 100)
    assert "--max-pixels" in refused.stderr
    result = linearsr("degrade", photos, "-o", tmp_path / "lr", "--max-pixels", 100)
    assert result.exit_code == 1
    assert result.stderr.count("--max-pixels") == 2
    assert "(max_pixels)" not in result.stderr


def test_an_unknown_device_is_one_short_line(upscale, photos):
    assert refused(upscale(photos / "a.png", "--device", "gpu")) == (
        "linearsr: --device gpu cannot be used (no such device): choose auto, cpu, cuda or mps\n"
    )


def test_broken_exif_is_said_once_and_in_our_words(upscale, tmp_path):
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "hello" * 20, 1
    block = exif.tobytes()
    for cut in (block[: len(block) // 2], block[:14]):
        noise(tmp_path / "a.jpg", 8, 8, exif=cut)
        result = done(upscale(tmp_path / "a.jpg", "--overwrite"))
        warnings = [line for line in result.stderr.splitlines() if "warning" in line]
        assert len(warnings) == 1, result.stderr
        assert "its EXIF data" in warnings[0]


def test_a_url_is_no_file(upscale):
    address = "https://example.org/a.jpg?w=[1]"
    result = upscale(address, "--json")
    assert result.exit_code == 1
    assert result.stderr == f"{address}: is a URL: download it first, then name the file\n"
    assert json.loads(result.stdout)["input"] == address
