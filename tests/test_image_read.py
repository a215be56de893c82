"""Reading: every kind of still image."""

import io

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from image_tools import RGB8, SMOOTH, SRGB, encoded, levels, png_chunk
from linearsr.images.metadata import parse_exif
from linearsr.images.picture import ImageError
from linearsr.images.reading import picture_from_pil, read_8_bit, read_image

rng = np.random.default_rng(0)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PPM", "TGA", "ICO"])
def test_lossless_formats_give_the_exact_pixels(file_format):
    size = {"sizes": [(12, 9)]} if file_format == "ICO" else {}
    picture = read_image(encoded(RGB8, file_format, **size))
    assert (picture.size, picture.bits) == ((12, 9), 8)
    assert np.array_equal(levels(picture)[..., :3], RGB8)


@pytest.mark.parametrize("name", ["JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_eight_bits_are_those_of_the_picture(name, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    data = encoded(SMOOTH, name, exif=exif)
    assert np.array_equal(read_8_bit(io.BytesIO(data)), levels(read_image(data)))
    with pytest.raises(ImageError, match="truncated"):
        read_8_bit(io.BytesIO(data[:-40]))


def test_every_kind_of_source(tmp_path):
    data = encoded(RGB8)
    path = tmp_path / "wrong extension.jpg"
    path.write_bytes(data)
    written = io.BytesIO()
    written.write(data)
    with open(path, "rb") as file:
        for source in (data, path, str(path), io.BytesIO(data), written, file):
            assert np.array_equal(levels(read_image(source)), RGB8)


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


@pytest.mark.parametrize("options", [{}, {"icc_profile": SRGB}])
def test_cmyk_without_a_fitting_profile_becomes_rgb(options):
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 4), dtype=np.uint8), "CMYK")
    picture = read_image(encoded(image, "TIFF", **options))
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
    assert parse_exif(picture.exif).get(0x0112, 1) == 1


def test_metadata_is_carried():
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    exif.get_ifd(0x8769).update({0xA002: 999, 0xA003: 888, 0x9003: "2020:01:02 03:04:05"})
    exif.get_ifd(0x8825)[1] = "N"
    assert read_image(encoded(RGB8, "TIFF")).dpi is None
    assert read_image(encoded(RGB8, "TIFF", dpi=(300, 200))).dpi == (300, 200)
    picture = read_image(encoded(RGB8, "JPEG", exif=exif, icc_profile=SRGB, dpi=(300, 200)))
    assert picture.icc_profile == SRGB
    assert picture.dpi == (300, 200)
    kept = parse_exif(picture.exif)
    assert kept[0x010F] == "A camera"
    photo = kept.get_ifd(0x8769)
    assert (photo[0xA002], photo[0xA003], photo[0x9003]) == (12, 9, "2020:01:02 03:04:05")
    assert kept.get_ifd(0x8825)[1] == "N"


def test_tiff_storage_tags_do_not_enter_exif():
    picture = read_image(encoded(RGB8, "TIFF", tiffinfo={0x010E: "words"}))
    assert dict(parse_exif(picture.exif)) == {0x010E: "words"}


def test_a_profile_for_another_colour_space_is_dropped_with_a_warning():
    with pytest.warns(UserWarning, match="does not fit"):
        picture = read_image(encoded(RGB8[..., 0].copy(), icc_profile=SRGB))
    assert picture.icc_profile is None


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_all_sixteen_bits(channels):
    samples = rng.integers(0, 65536, (11, 7, channels), dtype=np.uint16)
    picture = read_image(imagecodecs.png_encode(samples))
    assert picture.bits == 16
    assert np.array_equal(levels(picture), samples)


def test_png16_colour_key():
    samples = rng.integers(0, 65536, (5, 5, 3), dtype=np.uint16)
    data, key = imagecodecs.png_encode(samples), png_chunk(b"tRNS", samples[1, 2].astype(">u2").tobytes())
    alpha = read_image(data[:33] + key + data[33:]).alpha
    assert alpha[1, 2] == 0
    assert alpha.sum() == 24


def test_premultiplied_sixteen_bit_tiff():
    straight = rng.integers(0, 65536, (6, 6, 3))
    alpha = rng.integers(1, 65536, (6, 6, 1))
    stored = np.concatenate([straight * alpha // 65535, alpha], -1).astype(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_image(file.getvalue())
    assert np.array_equal(levels(picture)[..., 3:], alpha)
    assert (abs(levels(picture)[..., :3] - straight) <= np.ceil(65535 / alpha)).all()


def test_from_pil_takes_any_mode_and_applies_orientation():
    image = Image.fromarray(RGB8)
    for mode in "1 L LA P PA RGB RGBA RGBX CMYK YCbCr HSV I;16 La RGBa".split():  # noqa: SIM905
        source = Image.new("I;16", (12, 9), 77) if mode == "I;16" else image
        steps = {"PA": ["LA", "PA"], "La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"]}.get(mode, [mode])
        for step in steps:
            source = source if source.mode == step else source.convert(step)
        picture = picture_from_pil(source)
        assert picture.size == (12, 9), mode
        assert picture.bits == (16 if mode == "I;16" else 8)
    image.getexif()[0x0112] = 6
    assert np.array_equal(levels(picture_from_pil(image)), np.rot90(RGB8, -1))
