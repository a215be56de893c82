"""Bad input and wrong use: one line each, the right exit status, and the good files beside it are done."""

import errno
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from linearsr.cli.app import app
from linearsr.pipeline import LinearSRPipeline
from tiny_model import tiny_model

__all__ = ["tiny_model"]
GOOD = ("good.png", "one_pixel.png", "sub/good.jpg")


def upscale(*arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(app, ["upscale", *map(str, arguments)], env=environment)


def encoded(file_format: str, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + data


def spoilt_checksum() -> bytes:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def float_tiff(value: float) -> bytes:
    pixels = np.full((8, 8), 0.5, dtype=np.float32)
    pixels[3, 3] = value
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    return file.getvalue()


def zip_file() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.png", encoded("PNG"))
    return file.getvalue()


def line(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


BAD: dict[str, Callable[[], bytes]] = {
    "empty.png": bytes,
    "truncated.png": lambda: half(encoded("PNG")),
    "truncated.jpg": lambda: half(encoded("JPEG")),
    "truncated_progressive.jpg": lambda: half(encoded("JPEG", progressive=True)),
    "truncated.webp": lambda: half(encoded("WEBP")),
    "truncated.tiff": lambda: half(encoded("TIFF")),
    "truncated.gif": lambda: half(encoded("GIF")),
    "truncated.bmp": lambda: half(encoded("BMP")),
    "truncated.jp2": lambda: encoded("JPEG2000")[:60],
    "truncated.ppm": lambda: half(encoded("PPM")),
    "text.png": lambda: b"This is no image.\n",
    "page.jpg": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "drawing.png": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
    "document.jpg": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "postscript.png": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
    "archive.png": zip_file,
    "phone.jpg": lambda: struct.pack(">I", 24) + b"ftypheic" + bytes(64),
    "random.png": lambda: np.random.default_rng(1).bytes(4096),
    "zeros.jpg": lambda: bytes(4096),
    "signature.png": lambda: b"\x89PNG\r\n\x1a\n",
    "header.gif": lambda: b"GIF89a",
    "header.webp": lambda: b"RIFF\x10\0\0\0WEBP",
    "start.jpg": lambda: b"\xff\xd8\xff\xe0",
    "checksum.png": spoilt_checksum,
    "huge_header.png": lambda: png(60_000, 60_000, b""),
    "bomb.png": lambda: png(10_000, 10_000, bytes(1251 * 10_000), depth=1, colour=0),
    "no_width.png": lambda: png(0, 8, b""),
    "no_such_colour.png": lambda: png(8, 8, bytes(200), colour=5),
    "huge.bmp": lambda: (
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "thin.png": lambda: line(1, 5000),
    "flat.png": lambda: line(5000, 1),
    "nan.tiff": lambda: float_tiff(np.nan),
    "infinite.tiff": lambda: float_tiff(np.inf),
    "lost_directory.tiff": lambda: b"II*\0" + struct.pack("<I", 10_000),
    "circular_directory.tiff": lambda: b"II*\0" + struct.pack("<IHI", 8, 0, 8),
    "line\nbreak.png": bytes,
    "\x1b[31mred.png": lambda: b"no image",
    os.fsdecode(b"not-utf8-\xff.png"): lambda: b"no image",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "good.png").write_bytes(encoded("PNG"))
    (folder / "one_pixel.png").write_bytes(line(1, 1))
    (folder / "sub/good.jpg").write_bytes(encoded("JPEG"))
    return folder


def test_each_bad_file_is_one_line_and_the_good_ones_are_done(photos, tiny_model, tmp_path):
    for name, content in BAD.items():
        (photos / name).write_bytes(content())
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

    result = upscale(photos, *named, "-o", tmp_path / "out", "--model", tiny_model, "--strict")

    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[-1] == f"{len(GOOD)} done, {bad} failed"
    assert len(lines) == len(GOOD) + bad + 1
    assert "Traceback" not in result.stderr
    assert all(character.isprintable() for text in lines for character in text)
    done = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert done == {"photos/good.png", "photos/one_pixel.png", "photos/sub/good.png"}


def test_one_bad_file_alone(photos, tiny_model):
    result = upscale(photos / "missing.png", "--model", tiny_model, "--json")
    assert result.exit_code == 1
    assert result.stderr == f"{photos / 'missing.png'}: no such file\n"
    assert '"status": "failed"' in result.stdout


def test_disk_full(photos, tiny_model, monkeypatch):
    real, count = os.replace, iter(range(10))

    def full_once(source: str, target: str) -> None:
        if next(count) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr("linearsr.images.writing.os.replace", full_once)
    result = upscale(photos, "--model", tiny_model)
    assert result.exit_code == 1
    assert "good_x4.png: cannot be written: the disk is full" in result.stderr.splitlines()[0]
    assert not (photos / "good_x4.png").exists()
    assert (photos / "sub/good_x4.png").exists()
    assert not [path for path in photos.rglob("*") if ".part" in path.name]


def test_a_folder_in_the_way_of_one_result(photos, tiny_model):
    (photos / "good_x4.png").mkdir()
    result = upscale(photos, "--model", tiny_model, "--overwrite")
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
def test_an_unforeseen_error_is_one_line_and_the_others_go_on(photos, tiny_model, monkeypatch, error, line):
    real = LinearSRPipeline.upscale

    def fails_once(pipeline: LinearSRPipeline, picture, **options):
        if picture.size == (1, 1):
            raise error
        return real(pipeline, picture, **options)

    monkeypatch.setattr(LinearSRPipeline, "upscale", fails_once)
    result = upscale(photos, "--model", tiny_model)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[1].startswith(f"{photos / 'one_pixel.png'}: {line}")
    assert lines[-1] == "2 done, 1 failed"
    raised = upscale(photos, "--model", tiny_model, "--overwrite", LINEARSR_DEBUG="1")
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
def test_wrong_options(photos, tiny_model, options):
    result = upscale(photos / "good.png", "--model", tiny_model, *options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr
    assert "Traceback" not in result.stderr
    assert not (photos / "good_x4.png").exists()


def test_no_input_and_no_such_command():
    assert upscale().exit_code == 2
    assert CliRunner().invoke(app, ["enlarge"]).exit_code == 2


@pytest.mark.parametrize("damage", ["missing", "empty", "no json", "no weights", "damaged", "pickle"])
def test_bad_model(photos, tiny_model, tmp_path, damage):
    import shutil

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
    result = upscale(photos, "--model", folder)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert str(folder) in result.stderr
    assert isinstance(result.exception, SystemExit)
