"""Reading: every kind of still image, and one line for everything that is not a good one."""

import io
import os
import struct
import warnings
import zlib
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from linearsr.images.alpha import fill_transparent, resize_alpha
from linearsr.images.io import ImageError, picture_from_pil, read_image

rng = np.random.default_rng(0)
RGB8 = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None].repeat(3, -1)


def encoded(image, file_format="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, raw, extra=b""):
    """A PNG around filtered rows, made without the code under test."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = (
        png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def paeth(a, b, c):
    p = a + b - c
    return min((a, b, c), key=lambda x: abs(p - x))


def filtered_rows(samples):
    """Rows of 16-bit samples with the five PNG filters in turn, byte by byte as the specification says."""
    data = samples.astype(">u2")
    step, out, above = 2 * samples.shape[2], bytearray(), None
    for y, row in enumerate(data):
        line, kind = row.tobytes(), y % 5
        above = above or bytes(len(line))
        out.append(kind)
        for i, x in enumerate(line):
            a = line[i - step] if i >= step else 0
            c = above[i - step] if i >= step else 0
            b = above[i]
            out.append((x - (0, a, b, (a + b) // 2, paeth(a, b, c))[kind]) % 256)
        above = line
    return bytes(out)


def levels(picture):
    return picture.quantised().astype(int)


# ---------------------------------------------------------------- good files


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM", "TGA", "ICO"])
def test_lossless_formats_give_the_exact_pixels(file_format):
    size = {"sizes": [(12, 9)]} if file_format == "ICO" else {}
    picture = read_image(encoded(RGB8, file_format, **size))
    assert (picture.size, picture.bits) == ((12, 9), 8)
    assert np.array_equal(levels(picture)[..., :3], RGB8)


def test_every_kind_of_source(tmp_path):
    data = encoded(RGB8)
    path = tmp_path / "wrong extension.jpg"
    path.write_bytes(data)
    with open(path, "rb") as file:
        for source in (data, path, str(path), io.BytesIO(data), file):
            assert np.array_equal(levels(read_image(source)), RGB8)


def test_one_pixel_is_a_picture():
    assert levels(read_image(encoded(RGB8[:1, :1]))).tolist() == [[RGB8[0, 0].tolist()]]


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_stays_one_channel(mode):
    image = Image.fromarray(RGB8).convert(mode)
    picture = read_image(encoded(image))
    assert picture.colour.shape == (9, 12, 1)
    assert (picture.alpha is not None) == (mode == "LA")
    assert np.array_equal(levels(picture)[..., 0], np.asarray(image.convert("L")))


def test_palette_with_transparency_becomes_rgba():
    image = Image.fromarray(RGB8).quantize(16)
    plain = read_image(encoded(image))
    assert plain.alpha is None
    picture = read_image(encoded(image, transparency=3))
    assert np.array_equal(picture.alpha == 0, np.asarray(image) == 3)
    assert np.array_equal(levels(picture)[..., :3], np.asarray(image.convert("RGB")))


def test_colour_key_becomes_alpha():
    picture = read_image(encoded(RGB8, transparency=tuple(int(v) for v in RGB8[2, 3])))
    assert picture.alpha[2, 3] == 0
    assert picture.alpha.sum() == 9 * 12 - 1


def cmyk_profile_free():
    return Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK")


def test_cmyk_without_profile():
    image = cmyk_profile_free()
    picture = read_image(encoded(image, "TIFF"))
    assert np.array_equal(levels(picture), np.asarray(image.convert("RGB")))
    assert picture.icc_profile is None


def test_cmyk_with_an_unfit_profile_falls_back():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = cmyk_profile_free()
    picture = read_image(encoded(image, "TIFF", icc_profile=srgb))
    assert np.array_equal(levels(picture), np.asarray(image.convert("RGB")))
    assert picture.icc_profile is None


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_the_first_frame_and_a_warning(file_format):
    first, second = Image.fromarray(SMOOTH), Image.fromarray(255 - SMOOTH)
    data = encoded(first, file_format, save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match="only the first"):
        picture = read_image(data)
    assert abs(levels(picture)[..., 0] - SMOOTH[..., 0].astype(int)).max() < 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_orientation_is_applied_once(orientation, file_format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(SMOOTH[:16, :24] * 2, file_format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = read_image(data)
    assert np.array_equal(levels(picture), np.asarray(expected))
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert kept.get(0x0112, 1) == 1


def test_metadata_is_carried():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769).update({0xA002: 999, 0xA003: 888, 0x9003: "2020:01:02 03:04:05"})
    exif.get_ifd(0x8825)[1] = "N"
    picture = read_image(encoded(RGB8, "JPEG", exif=exif, icc_profile=srgb, dpi=(300, 200)))
    assert picture.icc_profile == srgb
    assert picture.dpi == (300, 200)
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept[0x010F] == "A camera"
    photo = kept.get_ifd(0x8769)
    assert (photo[0xA002], photo[0xA003], photo[0x9003]) == (12, 9, "2020:01:02 03:04:05")
    assert kept.get_ifd(0x8825)[1] == "N"


def test_tiff_storage_tags_do_not_enter_exif():
    picture = read_image(encoded(RGB8, "TIFF", tiffinfo={0x010E: "words"}))
    kept = Image.Exif()
    kept.load(picture.exif)
    assert dict(kept) == {0x010E: "words"}


def test_a_profile_for_another_colour_space_is_dropped_with_a_warning():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with pytest.warns(UserWarning, match="does not fit"):
        picture = read_image(encoded(RGB8[..., 0].copy(), icc_profile=srgb))
    assert picture.icc_profile is None


# ---------------------------------------------------------------- sixteen bits


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_png_keeps_all_sixteen_bits(channels, colour_type):
    samples = rng.integers(0, 65536, (11, 7, channels), dtype=np.uint16)
    picture = read_image(png(7, 11, 16, colour_type, filtered_rows(samples)))
    assert picture.bits == 16
    assert np.array_equal(levels(picture), samples)


def test_png16_colour_key():
    samples = rng.integers(0, 65536, (5, 5, 3), dtype=np.uint16)
    key = png_chunk(b"tRNS", samples[1, 2].astype(">u2").tobytes())
    alpha = read_image(png(5, 5, 16, 2, filtered_rows(samples), key)).alpha
    assert alpha[1, 2] == 0
    assert alpha.sum() == 24


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}])
def test_tiff_keeps_all_sixteen_bits(byteorder, channels, options):
    samples = rng.integers(0, 65536, (21, 37, channels), dtype=np.uint16)
    file = io.BytesIO()
    extra = ["unassalpha"] if channels == 4 else None
    kind = "rgb" if channels > 1 else "minisblack"
    pixels = samples if channels > 1 else samples[..., 0]
    tifffile.imwrite(file, pixels, photometric=kind, extrasamples=extra, byteorder=byteorder, **options)
    picture = read_image(file.getvalue())
    assert picture.bits == 16
    assert np.array_equal(levels(picture), samples)


def test_premultiplied_sixteen_bit_tiff():
    straight = rng.integers(0, 65536, (6, 6, 3))
    alpha = rng.integers(1, 65536, (6, 6, 1))
    stored = np.concatenate([straight * alpha // 65535, alpha], -1).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_image(file.getvalue())
    assert np.array_equal(levels(picture)[..., 3:], alpha)
    assert (abs(levels(picture)[..., :3] - straight) <= np.ceil(65535 / alpha)).all()


def test_white_is_zero_sixteen_bit_tiff():
    samples = rng.integers(0, 65536, (4, 5), dtype=np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="miniswhite")
    assert np.array_equal(levels(read_image(file.getvalue()))[..., 0], 65535 - samples.astype(int))


def test_float_tiff_keeps_its_values():
    values = rng.random((5, 6), dtype=np.float32)
    picture = read_image(encoded(Image.fromarray(values), "TIFF"))
    assert picture.bits == 16
    assert np.array_equal(picture.colour[..., 0], values)


# ---------------------------------------------------------------- bad files


def float_tiff(value):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = value
    return encoded(Image.fromarray(values), "TIFF")


def header_only_png(width, height):
    return png(width, height, 8, 2, b"")


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def broken_crc():
    data = encoded(SMOOTH)
    return damaged(data, data.index(b"IEND") - 5)


def planar_tiff(**options):
    file = io.BytesIO()
    pixels = rng.integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    tifffile.imwrite(file, pixels, photometric="rgb", planarconfig="separate", **options)
    return file.getvalue()


def int32_tiff():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[-5, 100000]], np.int32))
    return file.getvalue()


def text_bomb():
    bomb = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    return png(4, 4, 8, 0, b"\0\1\2\3\4" * 4, png_chunk(b"zTXt", bomb))


PNG, JPEG, TIFF = encoded(SMOOTH), encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "TIFF", compression="tiff_lzw")

BAD_BYTES = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x89", "no image"),
    "zeros": (bytes(1000), "no image"),
    "noise": (rng.bytes(1000), "no image"),
    "text": (b"This is not a picture.\n" * 10, "no image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "no image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no image"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "no image"),
    "zip": (b"PK\x03\x04" + bytes(100), "no image"),
    "pickle": (b"\x80\x04\x95cposix\nsystem\n", "no image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
    "png signature only": (PNG[:8], "no image|broken"),
    "png cut in the header": (PNG[:20], "no image|broken"),
    "png cut in the pixels": (PNG[: len(PNG) // 2], "truncated"),
    "png without its last pixels": (PNG[:-30], "truncated"),
    "png with a broken checksum": (broken_crc(), "broken"),
    "png with a damaged header": (damaged(PNG, 18), "broken"),
    "png without pixels": (header_only_png(10, 10), "truncated"),
    "png of zero width": (header_only_png(0, 10), "no image|nothing in it"),
    "png bomb": (png(50000, 50000, 1, 0, bytes(6251 * 1000)), "exceed|more pixels"),
    "png of 60000x60000": (header_only_png(60000, 60000), "exceed|more pixels"),
    "png of 9000x9000": (header_only_png(9000, 9000), "81 megapixels exceed the limit of 64"),
    "png text bomb": (text_bomb(), "broken"),
    "jpeg cut in the header": (JPEG[:100], "no image|broken"),
    "jpeg cut in the pixels": (JPEG[: len(JPEG) // 2], "no image|truncated"),
    "jpeg without its end": (JPEG[:-2], "truncated"),
    "tiff cut": (TIFF[: len(TIFF) // 2], "no image|broken|truncated"),
    "gif cut": (encoded(SMOOTH, "GIF")[:-200], "truncated"),
    "webp cut": (encoded(SMOOTH, "WEBP")[:-50], "no image|broken|truncated"),
    "bmp cut": (encoded(SMOOTH, "BMP")[:-50], "truncated"),
    "tiff with NaN": (float_tiff(np.nan), "NaN"),
    "tiff with infinity": (float_tiff(np.inf), "NaN or infinite"),
    "tiff of kelvins": (float_tiff(293.0), "range 0 to 1"),
    "tiff of signed 32-bit integers": (int32_tiff(), "unknown range"),
    "planar 16-bit tiff": (planar_tiff(), "separate planes"),
    "compressed planar 16-bit tiff": (planar_tiff(compression="zlib"), "separate planes"),
    "strip of 1x5000": (encoded(np.zeros((5000, 1), np.uint8)), "a line, not a picture"),
}


@pytest.mark.parametrize("kind", BAD_BYTES)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File|Image size:")
def test_bad_bytes_give_one_line(kind, tmp_path):
    data, words = BAD_BYTES[kind]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert line.count("; ") >= 1, "it must say what to do"
    with pytest.raises(ImageError, match=r"^<bytes>: "):
        read_image(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(RGB8, icc_profile=b"no profile" * 30), "ICC profile is broken"),
        (encoded(RGB8, "JPEG", exif=b"Exif\0\0garbage garbage"), "EXIF data is broken"),
    ],
)
def test_broken_metadata_is_dropped_and_the_picture_kept(data, words):
    with pytest.warns(UserWarning, match=words):
        picture = read_image(data)
    assert picture.colour.shape == RGB8.shape
    assert picture.icc_profile is None
    assert picture.exif is None


def test_bad_paths_give_one_line(tmp_path):
    fifo = tmp_path / "pipe.png"
    os.mkfifo(fifo)
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    cases = {
        tmp_path: "is a folder",
        tmp_path / "none.png": "does not exist",
        fifo: "device or pipe",
        loop: "cannot be read",
        tmp_path / ("x" * 300 + ".png"): "too long",
        "a\0b.png": "no valid file name",
        tmp_path / "new\nline.png": "does not exist",
    }
    for path, words in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"), [(PermissionError(13, "no"), "no permission"), (OSError(5, "I/O"), "I/O")]
)
def test_unreadable_files_give_one_line(tmp_path, monkeypatch, error, words):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def refuse(self):
        raise error

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ImageError, match=words):
        read_image(path)


def test_a_text_stream_is_refused():
    with pytest.raises(ImageError, match=r"photo\.png|stream"):
        read_image(io.StringIO("text"))


def test_memory_running_out_is_one_line(monkeypatch):
    def fail(im):
        raise MemoryError

    monkeypatch.setattr("linearsr.images.reading.samples_of", fail)
    with pytest.raises(ImageError, match="memory"):
        read_image(PNG)


def test_the_pixel_limit_can_be_moved():
    assert read_image(PNG, max_pixels=48 * 64).size == (64, 48)
    with pytest.raises(ImageError, match="exceed the limit"):
        read_image(PNG, max_pixels=48 * 64 - 1)


FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "TGA", "PPM"]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File")
def test_a_cut_file_is_refused_or_whole_but_never_half(file_format):
    data = encoded(SMOOTH, file_format)
    whole = levels(read_image(data))
    cuts = sorted({*np.linspace(1, len(data) - 1, 60).astype(int).tolist(), len(data) - 1, len(data) - 2})
    refused = 0
    for cut in cuts:
        try:
            got = levels(read_image(data[:cut]))
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(got, whole)
    assert refused > len(cuts) // 2


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damage_never_raises_anything_else(file_format, data):
    good = bytearray(encoded(SMOOTH[:12, :16], file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = read_image(bytes(good), max_pixels=100_000)
        except ImageError:
            pass
        else:
            assert np.isfinite(picture.colour).all()


# ---------------------------------------------------------------- Pillow images and alpha


def test_from_pil_takes_any_mode_and_applies_orientation():
    image = Image.fromarray(RGB8)
    for mode in (
        "1",
        "L",
        "LA",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBX",
        "CMYK",
        "YCbCr",
        "HSV",
        "I;16",
        "La",
        "RGBa",
    ):
        source = Image.new("I;16", (12, 9), 77) if mode == "I;16" else image
        steps = {"PA": ["LA", "PA"], "La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"]}.get(mode, [mode])
        for step in steps:
            source = source if source.mode == step else source.convert(step)
        picture = picture_from_pil(source)
        assert picture.size == (12, 9), mode
        assert picture.bits == (16 if mode == "I;16" else 8)
    image.getexif()[0x0112] = 6
    assert np.array_equal(levels(picture_from_pil(image)), np.rot90(RGB8, -1))


def test_invisible_colour_is_replaced_from_its_surroundings():
    colour = np.zeros((40, 50, 3), np.float32)
    alpha = np.zeros((40, 50), np.float32)
    colour[10:20, 10:30], alpha[10:20, 10:30] = (0.9, 0.5, 0.1), 0.01
    filled = fill_transparent(colour, alpha)
    np.testing.assert_allclose(filled, np.broadcast_to(np.float32([0.9, 0.5, 0.1]), filled.shape), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000), st.floats(0, 1))
def test_filling_keeps_the_visible_and_the_range(height, width, seed, share):
    random = np.random.default_rng(seed)
    colour = random.random((height, width, 3), dtype=np.float32)
    alpha = (random.random((height, width)) < share).astype(np.float32)
    filled = fill_transparent(colour, alpha)
    assert np.array_equal(filled[alpha > 0], colour[alpha > 0])
    if alpha.any():
        low, high = colour[alpha > 0].min(0), colour[alpha > 0].max(0)
        assert (filled >= low - 1e-5).all()
        assert (filled <= high + 1e-5).all()


def test_resized_alpha_stays_in_range():
    alpha = np.zeros((6, 6), np.float32)
    alpha[2:4, 2:4] = 1
    big = resize_alpha(alpha, (24, 12))
    assert big.shape == (24, 12)
    assert (big.min(), big.max()) == (0, 1)
    assert all(a <= b + 1e-6 for a, b in pairwise(big[:12, 6]))
