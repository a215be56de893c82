"""Formats of phones and the web: HEIC through pillow-heif, JPEG XL through pillow-jxl-plugin, AVIF."""

import io
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from image_tools import SMOOTH, SRGB, encoded, levels
from linearsr.images.io import ImageError, Picture, encode_image, read_image, read_size
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


@pytest.mark.parametrize(("primaries", "transfer", "kept"), [(12, 13, True), (9, 16, True), (1, 13, False)])
@pytest.mark.parametrize("brand", ["heic", "avif"])
def test_colours_without_a_profile_are_kept(tmp_path, brand, primaries, transfer, kept):
    file = io.BytesIO()
    HEIF.from_pillow(Image.fromarray(SMOOTH)).save(
        file, color_primaries=primaries, transfer_characteristics=transfer
    )
    data = file.getvalue()
    if brand == "avif":
        nclx = data[(at := data.index(b"colrnclx") + 8) : at + 7]
        avif = encoded(SMOOTH, "AVIF")
        data = avif[: (at := avif.index(b"colrnclx") + 8)] + nclx + avif[at + 7 :]
    is_hdr = transfer == 16
    with pytest.warns(UserWarning, match=r"HDR colours \(PQ\)") if is_hdr else nullcontext():
        picture = read_image(data)
    assert picture.colour_chunks == (((b"cICP", bytes([primaries, transfer, 0, 1])),) if kept else ())
    as_jpeg = read_image(encode_image(picture, "a.jpg"))
    assert (as_jpeg.icc_profile is not None) == (kept and not is_hdr)


def test_of_several_colours_none_is_taken():
    data = heic()
    at = data.index(b"colrnclx")
    other = b"colrnclx\0\x0c\0\x0d\0\x06\x80"
    assert read_image(data + other).colour_chunks == ()
    assert read_image(data[:at] + other + data[at + len(other) :]).colour_chunks != ()


def jxl(array, **options):
    pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    return encoded(array, "JXL", exif=exif.tobytes(), **options)


@pytest.mark.parametrize("use_container", [False, True])
def test_jpeg_xl_is_read_with_its_metadata(use_container):
    data = jxl(SMOOTH, lossless=True, use_container=use_container)
    picture = read_image(data)
    assert np.array_equal(levels(picture), SMOOTH)
    assert parse_exif(picture.exif)[0x010F] == "A camera"
    assert read_size(io.BytesIO(data), "a") == (48, 64)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (64, 64), (600, 800), (90, 160), (256, 8), (3000, 20)])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(monkeypatch, size):
    data = jxl(np.zeros((*size, 3), np.uint8))
    monkeypatch.setattr("pillow_jxl.JpegXLImagePlugin.JXLImageFile._open", lambda self: 1 / 0)
    assert read_size(io.BytesIO(data), "a") == size
    with pytest.raises(ImageError, match="exceed the limit"):
        read_image(data, max_pixels=size[0] * size[1] - 1)


def test_avif_is_written_and_read_with_its_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    colour = SMOOTH.astype(np.float32) / 255
    alpha = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    made = Picture(colour, alpha, icc_profile=SRGB, exif=exif.tobytes(), tags=("sky",))
    picture = read_image(encode_image(made, "a.avif", quality=95))
    np.testing.assert_allclose(picture.colour[:, 8:], colour[:, 8:], atol=6 / 255)
    np.testing.assert_allclose(picture.alpha, alpha, atol=4 / 255)
    assert picture.icc_profile == SRGB
    assert parse_exif(picture.exif)[0x010F] == "A camera"
    assert b"sky" in picture.texts.xmp
    grey = encode_image(Picture(colour[..., :1]), "a.avif")
    assert read_size(io.BytesIO(grey), "a") == (48, 64)


@pytest.mark.parametrize(
    ("module", "kind", "package", "begin"),
    [
        ("pillow_jxl", "JXL", r"pillow-jxl-plugin; pip install 'linearsr\[jxl\]'", b"\xff\x0a"),
        ("pillow_heif", "HEIF", r"pillow-heif; pip install 'linearsr\[heif\]'", b"\0\0\0\x18ftypheic"),
    ],
)
def test_without_the_library_one_line_says_what_to_do(monkeypatch, module, kind, package, begin):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(Image.OPEN, kind, raising=False)
    monkeypatch.setattr(Image, "ID", [known for known in Image.ID if known != kind])
    for read in (read_image, lambda data: read_size(io.BytesIO(data), "a")):
        with pytest.raises(ImageError, match=f"needs {package}"):
            read(begin + bytes(100))
