"""`linearsr upscale` end to end: results, reports, what is skipped, and what is left after an interrupt."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands import COMMAND, done, linearsr, records, refused
from image_tools import noise, photos
from linearsr.cli.upscale import DEFAULT_SCALE
from linearsr.model_folder import default_model_folder, model_scale
from tiny_model import build

__all__ = ["photos"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".part" in path.name]


@pytest.mark.parametrize("way", [[], ["--memory-limit", "0.0001"]])
def test_metadata_is_left_out_on_request(upscale, tmp_path, way):
    exif = Image.Exif()
    exif[0x013B], exif[0x8825] = "somebody", {1: "N", 2: (52.0, 12.0, 0.0)}
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg", exif=exif.tobytes())
    for option, left in (
        ([], (True, True)),
        (["--strip-gps"], (True, False)),
        (["--strip-metadata"], (False, False)),
    ):
        done(
            upscale(
                tmp_path / "a.jpg",
                "-o",
                tmp_path / "b.png",
                "--overwrite",
                *option,
                *way,
            )
        )
        with Image.open(tmp_path / "b.png") as image:
            assert (0x013B in image.getexif(), 0x8825 in image.getexif()) == left


def test_damage_is_said_and_refused_on_request(upscale, tmp_path):
    noise(tmp_path / "whole.jpg", 40, 40)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2])
    arguments = tmp_path / "a.jpg", "-o", tmp_path / "b.png"
    refused = upscale(*arguments, "--strict")
    assert refused.exit_code != 0
    assert "its end is missing" in " ".join(refused.stderr.split())
    result = done(upscale(*arguments))
    assert "its end is missing" in " ".join(result.stderr.split())


def test_what_is_skipped_in_folders_is_one_line(upscale, photos, tmp_path):
    for name in ("notes.txt", "sub/a.xmp", "sub/b.xmp", "LICENSE", ".hidden.png"):
        (photos / name).write_text("no picture")
    result = done(upscale(photos, "-o", photos / "out"))
    said = "skipped, not image file names: 1 .txt, 2 .xmp, 1 hidden, 1 without a type"
    assert [line for line in result.stderr.splitlines() if "image file names" in line] == [said]
    (photos / "out/more.txt").write_text("in the results")
    assert said in upscale(photos, "-o", photos / "out").stderr


def test_folder_with_json(upscale, photos, tmp_path):
    result = done(upscale(photos, "-o", tmp_path / "out", "--seed", 7, "--json"))
    first, second = records(result)
    assert first.pop("seconds") > 0  # type: ignore[operator]
    assert first == {
        "input": str(photos / "a.png"),
        "output": str(tmp_path / "out/a.png"),
        "status": "done",
        "size": [48, 40],
        "seed": 7,
        "model": "tiny",
        "tags": [],
        "unknown_tags": [],
        "warnings": [],
        "error": None,
    }
    assert second["output"] == str(tmp_path / "out/sub/b.png")
    with Image.open(tmp_path / "out/sub/b.png") as image:
        assert image.size == (36, 56)


def test_second_run_skips_and_loads_no_model(upscale, photos, tiny_model, tmp_path):
    assert upscale(photos).exit_code == 0
    before = (photos / "a_x4.png").stat().st_mtime_ns
    without_weights = shutil.copytree(
        tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors")
    )
    again = done(upscale(photos, "--model", without_weights, "--json"))
    assert [record["status"] for record in records(again)] == ["skipped", "skipped"]
    assert "a_x4.png exists" in again.stderr
    assert (photos / "a_x4.png").stat().st_mtime_ns == before
    assert upscale(photos, "--overwrite").exit_code == 0
    assert (photos / "a_x4.png").stat().st_mtime_ns != before
    assert not (photos / "a_x4_x4.png").exists()


def test_named_file_that_exists_is_kept(upscale, photos, tmp_path):
    target = tmp_path / "result.webp"
    target.write_bytes(b"mine")
    kept = done(upscale(photos / "a.png", "-o", target))
    assert "exists" in kept.stderr
    assert target.read_bytes() == b"mine"
    assert upscale(photos / "a.png", "-o", target, "--overwrite").exit_code == 0
    with Image.open(target) as image:
        assert (image.format, image.size) == ("WEBP", (48, 40))


def test_settings_reach_the_pipeline(upscale, photos, tmp_path):
    def pixels(*options: object) -> bytes:
        out = tmp_path / "out.png"
        done(upscale(photos / "a.png", "-o", out, "--overwrite", *options))
        return out.read_bytes()

    plain = pixels()
    changed = [("--seed", 1), ("--steps", 2), ("--fidelity", 1), ("--scale", 3), ("--color-fix", "wavelet")]
    others = [pixels(*options) for options in changed]
    assert len({plain, *others}) == len(changed) + 1
    assert pixels("--scale", 4, "--seed", 0, "--device", "cpu") == plain


def test_formats(upscale, photos):
    for suffix, name in [("jpg", "JPEG"), ("tiff", "TIFF")]:
        done(upscale(photos / "a.png", "--format", suffix, "--scale", 2.5))
        with Image.open(photos / f"a_x2.5.{suffix}") as image:
            assert (image.format, image.size) == (name, (30, 25))


def test_an_unknown_type_is_no_folder(upscale, photos, tmp_path):
    for name in ("new.jxl", "new.HEIC"):
        assert f"cannot write {name[3:]}" in refused(upscale(photos / "a.png", "-o", tmp_path / name))
        assert not (tmp_path / name).exists()
    (tmp_path / "a folder.jxl").mkdir()
    assert upscale(photos / "a.png", "-o", tmp_path / "a folder.jxl").exit_code == 0


def test_a_folder_is_no_finished_result(upscale, photos):
    (photos / "a_x4.png").mkdir()
    assert "a_x4.png is a folder" in refused(upscale(photos / "a.png"), 1)


def test_max_pixels(upscale, photos):
    assert "12x10" in refused(upscale(photos / "a.png", "--max-pixels", 100), 1)


def test_warnings_are_one_line(upscale, photos):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(photos / "anim.gif", save_all=True, append_images=frames[1:])
    result = done(upscale(photos / "anim.gif"))
    first, _ = result.stderr.splitlines()
    assert first.startswith(f"{photos / 'anim.gif'}: warning: has several frames")


def test_interrupt_while_writing_leaves_nothing(upscale, photos, monkeypatch):
    def interrupt(*_: object) -> None:
        assert leftovers(photos), "the draft should be there by now"
        raise KeyboardInterrupt

    monkeypatch.setattr("linearsr.runtime.files.os.link", interrupt)
    result = upscale(photos)
    assert result.exit_code == 130
    assert "2 not finished" in result.stderr
    assert not leftovers(photos)
    assert not (photos / "a_x4.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal(photos, tiny_model, number, status):
    noise(photos / "sub/b.jpg", 64, 64)
    command = [*COMMAND, "upscale", photos, "--model", tiny_model, "--json", "--steps", "300"]
    # a suite that runs in the background may ignore SIGINT, and would hand that on
    before = signal.signal(number, signal.SIG_DFL)
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    signal.signal(number, before)
    with started as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # the first image is reported, so the second is in work
        assert json.loads(process.stdout.readline())["status"] == "done"
        process.send_signal(number)
        rest, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == status
    assert rest == b""
    assert b"Traceback" not in errors
    assert errors.endswith(b"linearsr: interrupted; 1 done, 1 not finished\n")
    assert {path.name for path in photos.rglob("*.*")} == {"a.png", "a_x4.png", "b.jpg"}


def test_same_bytes_in_another_process_and_no_heavy_imports(upscale, photos, tiny_model, tmp_path):
    code = (
        "import sys; from linearsr.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
        "heavy = ('diffusers', 'transformers', 'accelerate', 'matplotlib', 'sympy', 'torch._dynamo'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    options = ["upscale", str(photos), "--model", str(tiny_model)]
    other = [sys.executable, "-c", code, *options, "-o", str(tmp_path / "other")]
    process = subprocess.run(other, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert process.stdout == "[]\n"
    done(upscale(*options[1:], "-o", tmp_path / "here"))
    for name in ("a.png", "sub/b.png"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_version():
    result = linearsr("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("linearsr 0.")


def test_a_model_of_another_scale_gives_its_own(upscale, photos, tmp_path):
    model = build(scale=2)
    model.save_pretrained(tmp_path / "twice")
    done(upscale(photos / "a.png", "--model", tmp_path / "twice"))
    with Image.open(photos / "a_x2.png") as image:
        assert image.size == (24, 20)


def test_the_scale_that_is_taken_without_looking_is_that_of_the_model_in_the_package():
    assert model_scale(default_model_folder()) == DEFAULT_SCALE


def test_a_model_that_is_not_there_is_told_though_nothing_is_to_do(upscale, photos, tmp_path):
    assert upscale(photos, "-o", tmp_path / "out").exit_code == 0
    assert "no-model" in refused(upscale(photos, "-o", tmp_path / "out", "--model", tmp_path / "no-model"))


def test_a_phone_photo_in_a_folder_is_named_and_not_passed_over(upscale, photos, tmp_path):
    for name in ("IMG_1.HEIC", "DSC_1.HIF"):
        (photos / "sub" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    result = upscale(photos, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "IMG_1.HEIC: is a broken HEIC photo" in result.stderr
    assert result.stderr.splitlines()[-1] == "2 done, 2 failed"
