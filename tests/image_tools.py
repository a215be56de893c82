"""Image files for tests, made without the code under test."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

RGB8 = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None].repeat(3, -1)


def encoded(image, file_format="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, raw, extra=b""):
    """A PNG around filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = (
        png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def levels(picture):
    return picture.quantised().astype(int)


def float_tiff(value):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = value
    return encoded(Image.fromarray(values), "TIFF")


def noise(path, width, height, **options):
    """A file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """A folder with a.png and sub/b.jpg."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    noise(folder / "a.png", 12, 10)
    noise(folder / "sub/b.jpg", 9, 14)
    return folder
