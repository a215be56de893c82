"""Formats of phones and the web: HEIC through pillow-heif, JPEG XL through pillow-jxl-plugin, AVIF."""

import io
import re
import struct
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import imagecodecs as codecs
import numpy as np
import pytest
from PIL import Image

from image_tools import SMOOTH, SRGB, encoded, levels
from linearsr.images.metadata import keep_text, parse_exif
from linearsr.images.picture import ImageError, Picture
from linearsr.images.reading import read_image, read_size
from linearsr.images.texts import keyword_packet
from linearsr.images.writing import encode_image

HEIF = pytest.importorskip("pillow_heif")
HEIF.register_heif_opener()
UPRIGHT_HEADER = bytes.fromhex("ff0a98401009")
TURNED_HEADER = bytes.fromhex("ff0a98400bc404")
"""Of 30x20 pixels of 8 bits without loss; the latter as a camera on its side makes it (orientation 6)."""
CHURCH = np.asarray(Image.open(Path(__file__).parent / "data/church.png").convert("RGB"))


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


def test_the_exif_of_a_turned_avif_stays_as_it_is():
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "José".encode().decode("latin-1"), 6
    keep_text(exif)
    data = encoded(SMOOTH, "AVIF", exif=exif)
    assert b"irot" in data
    picture = read_image(data)
    assert picture.size == (48, 64)
    assert "José".encode() in picture.exif


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
    assert b"sky" in picture.xmp
    grey = encode_image(Picture(colour[..., :1]), "a.avif")
    assert read_size(io.BytesIO(grey), "a") == (48, 64)


DEEP = (np.stack(np.broadcast_arrays(np.arange(64) * 16, np.arange(48)[:, None] * 21, 1023), 2)).astype("u2")
SOFT = np.concatenate([DEEP, np.broadcast_to(np.arange(64) * 16 + 15, (48, 64))[..., None]], 2).astype("u2")


def deep_heic(array):
    mode = "RGBA;16" if array.shape[2] == 4 else "RGB;16"
    file = io.BytesIO()
    HEIF.from_bytes(mode, (64, 48), (array << 6).tobytes()).save(file, quality=-1, chroma=444)
    return file.getvalue()


@pytest.mark.parametrize("array", [DEEP, SOFT], ids=["colour", "alpha"])
@pytest.mark.parametrize("kind", ["heic", "avif", "jxl"])
def test_ten_bits_are_kept(kind, array):
    make = {
        "heic": deep_heic,
        "avif": partial(codecs.avif_encode, level=100, bitspersample=10, pixelformat="444"),
        "jxl": partial(codecs.jpegxl_encode, lossless=True, bitspersample=10),
    }
    data = make[kind](array)
    picture = read_image(data)
    made = picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha])
    assert picture.bits == 16
    np.testing.assert_allclose(made, array / np.float32(1023), atol={"heic": 5}.get(kind, 1.5) / 1023)
    assert len(np.unique(picture.quantised()[..., 0])) > 60


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_all_bits_of_a_jpeg_2000_are_kept(bits, channels, kind):
    array = (SOFT[..., :channels].astype(int) * (2**bits - 1) // 1023).astype(np.uint16)
    data = codecs.jpeg2k_encode(array.squeeze(), level=0, bitspersample=bits, codecformat=kind)
    picture = read_image(data)
    made = picture.colour if picture.alpha is None else np.dstack([picture.colour, picture.alpha])
    assert picture.bits == 16
    np.testing.assert_allclose(made * (2**bits - 1), array, atol=0.01)


def test_a_jpeg_2000_that_pillow_misreads_is_refused_without_the_library(monkeypatch):
    data = codecs.jpeg2k_encode(DEEP, level=0, bitspersample=10)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match=r"10 bits per channel; pip install 'linearsr\[large\]' reads it"):
        read_image(data)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_bits_of_a_jpeg_xl_are_kept(channels, dtype):
    unit = SOFT[..., :channels] / 1023
    array = (unit * 65535).round().astype(dtype) if dtype == np.uint16 else unit.astype(dtype)
    picture = read_image(codecs.jpegxl_encode(array if channels > 1 else array[..., 0], lossless=True))
    assert picture.bits == 16
    np.testing.assert_array_equal(picture.quantised(), (unit * 65535).round().astype(int))


def test_of_an_animated_jpeg_xl_the_first_frame_is_read():
    frames = np.stack([SMOOTH, SMOOTH[::-1]])
    with pytest.warns(UserWarning, match="several frames"):
        picture = read_image(codecs.jpegxl_encode(frames, lossless=True))
    assert np.array_equal(levels(picture), SMOOTH)


@pytest.mark.parametrize("kind", ["avif", "jxl"])
def test_lost_bits_are_told_of_without_the_library(monkeypatch, kind):
    encode = {"avif": codecs.avif_encode, "jxl": codecs.jpegxl_encode}[kind]
    data = encode(DEEP, bitspersample=10)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.warns(
        UserWarning, match=r"of its 10 bits per channel 8 are used; pip install 'linearsr\[large\]'"
    ):
        assert read_image(data).bits == 8


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_xmp_of_a_jpeg_xl_is_kept(is_packed):
    packet = keyword_packet(["a bridge"])
    data = jxl(SMOOTH, use_container=True, xmp=packet, compress_metadata=is_packed)
    assert (b"brob" in data) == is_packed
    picture = read_image(data)
    assert b"a bridge" in picture.xmp
    assert parse_exif(picture.exif)[0x010F] == "A camera"


def test_a_jpeg_xl_is_turned_once():
    array = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    data = codecs.jpegxl_encode(array, lossless=True)
    assert data.startswith(UPRIGHT_HEADER)
    exif = Image.Exif()
    exif[0x0112] = 6
    parts = {
        b"JXL ": b"\r\n\x87\n",
        b"ftyp": b"jxl \0\0\0\0jxl ",
        b"Exif": bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0"),
        b"jxlc": TURNED_HEADER + data[len(UPRIGHT_HEADER) :],
    }
    boxes = [struct.pack(">I", 8 + len(content)) + kind + content for kind, content in parts.items()]
    assert np.array_equal(levels(read_image(b"".join(boxes))), array.swapaxes(0, 1)[:, ::-1])


def tiled_heic():
    HEIF.options.GRID_TILE_SIZE, before = 64, HEIF.options.GRID_TILE_SIZE
    try:
        file = io.BytesIO()
        HEIF.from_pillow(Image.fromarray(CHURCH)).save(file)
        return file.getvalue()
    finally:
        HEIF.options.GRID_TILE_SIZE = before


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize(
    "make",
    [tiled_heic, partial(encoded, CHURCH, "HEIF"), partial(encoded, CHURCH, "AVIF")],
    ids=["tiles", "heic", "avif"],
)
def test_of_a_cut_file_the_rows_before_are_read(make, share):
    data = make()
    whole = read_image(data).colour
    cut = data[: int(share * len(data))]
    with pytest.warns(UserWarning, match="rows are missing and left blank") as said:
        picture = read_image(cut)
    missing = int(re.search(r"last (\d+) of its 256", str(said[0].message))[1])
    there = slice(0, 256 - missing)
    assert 256 * (0.9 - share) < missing < 256 * (1.2 - share)
    assert np.abs(picture.colour[there] - whole[there]).mean(axis=(1, 2)).max() < 0.05
    assert not picture.colour[256 - missing :].any()
    assert read_size(io.BytesIO(cut), "a") == (256, 256)
    with pytest.raises(ImageError, match="get a new copy"):
        read_image(cut, strict=True)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("use_container", [False, True])
def test_a_cut_jpeg_xl_is_refused_in_words(share, use_container):
    data = jxl(CHURCH, use_container=use_container)
    with pytest.raises(ImageError, match=r"broken JPEG XL file: it is damaged or truncated; get a new copy$"):
        read_image(data[: int(share * len(data))])


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
