"""Photos of phones: HEIC, through pillow-heif."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from image_tools import SMOOTH
from linearsr.images.io import ImageError, read_image, read_size
from linearsr.images.metadata import parse_exif

HEIF = pytest.importorskip("pillow_heif")


def heic():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A phone", 6
    file = io.BytesIO()
    HEIF.from_pillow(Image.fromarray(SMOOTH)).save(file, quality=95, exif=exif.tobytes())
    return file.getvalue()


def test_heic_is_read_upright_with_its_metadata():
    picture = read_image(heic())
    assert picture.size == (48, 64)
    np.testing.assert_allclose(picture.quantised().astype(int), SMOOTH.swapaxes(0, 1)[:, ::-1], atol=6)
    assert parse_exif(picture.exif)[0x010F] == "A phone"
    assert parse_exif(picture.exif).get(0x0112, 1) == 1
    assert read_size(io.BytesIO(heic()), "a") == (64, 48)


def test_without_the_library_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ImageError, match=r"HEIC photo, which needs pillow-heif; pip install 'linearsr\[heif\]'"
    ):
        read_image(b"\0\0\0\x18ftypheic" + bytes(100))
