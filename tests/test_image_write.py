"""Writing: what was put in comes out again, all of it or no file at all."""

import errno
import os
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_tools import SRGB, camera_exif, random_picture
from linearsr.images import writing
from linearsr.images.metadata import parse_exif
from linearsr.images.picture import ImageError, Picture
from linearsr.images.reading import read_image
from linearsr.images.writing import write_image

LOSSLESS = [".png", ".tif", ".tiff"]


EVERY = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".TIFF"]


def smooth_picture(channels=3, alpha=False):
    ramp = np.add.outer(np.linspace(0, 0.5, 40), np.linspace(0, 0.5, 60)).astype(np.float32)
    return Picture(np.stack([ramp] * channels, -1), ramp.copy() if alpha else None)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from([8, 16]),
    st.sampled_from([".png", ".tif"]),
)
def test_lossless_formats_return_every_bit(tmp_path_factory, height, width, channels, bits, extension):
    picture, integers = random_picture(height, width, channels, bits)
    path = tmp_path_factory.mktemp("out") / f"a{extension}"
    write_image(picture, path)
    back = read_image(path)
    assert back.bits == bits
    expected = integers[..., [0, 0, 0, 1]] if (channels, bits, extension) == (2, 16, ".tif") else integers
    assert np.array_equal(back.quantised(), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_tifffile_reads_our_tiff(tmp_path, channels, bits):
    picture, integers = random_picture(300, 500, channels, bits, dpi=(72, 72), icc_profile=None)
    write_image(picture, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        pixels = page.asarray().reshape(300, 500, -1)
        assert page.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(pixels if pixels.shape[2] == channels else pixels[..., [0, 3]], integers)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_another_library_reads_our_png16(channels):
    ramp = np.linspace(0, 1, 70 * 9 * channels, dtype=np.float32).reshape(70, 9, channels)
    noise = random_picture(70, 9, channels, 16)[0].quantised()
    for samples in (noise, np.rint(ramp * 65535).astype(np.uint16)):
        decoded = imagecodecs.png_decode(writing.encode_png16(samples, {}))
        assert np.array_equal(decoded.reshape(samples.shape), samples)


def test_filters_pay():
    picture = smooth_picture()
    samples = np.rint(picture.colour * 65535).astype(np.uint16)
    assert len(writing.encode_png16(samples, {})) < 0.8 * len(zlib.compress(samples.astype(">u2").tobytes()))


@pytest.mark.parametrize("extension", EVERY)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_format_is_close_and_keeps_metadata(tmp_path, extension, channels, bits):
    source = smooth_picture(channels)
    profile = SRGB if channels == 3 else None
    picture = Picture(
        source.colour, bits=bits, icc_profile=profile, exif=camera_exif(6, 999, 888), dpi=(300, 150)
    )
    path = tmp_path / f"a{extension}"
    write_image(picture, path)
    back = read_image(path)
    assert np.abs(back.colour - picture.colour).max() < 0.03
    assert back.icc_profile == profile
    kept = parse_exif(back.exif)
    assert (kept[0x010F], kept.get(0x0112, 1)) == ("A camera", 1)
    assert 0x0100 not in kept
    photo = kept.get_ifd(0x8769)
    assert (photo[0xA002], photo[0xA003], photo[0x9003]) == (60, 40, "2020:01:02 03:04:05")
    assert kept.get_ifd(0x8825)[2] == (50, 30, 0)
    if extension != ".webp":
        assert back.dpi == pytest.approx((300, 150), abs=0.02)
    with Image.open(path) as image:
        assert image.format == {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".png": "PNG"}.get(
            extension, "TIFF"
        )


def test_alpha_into_jpeg_is_flattened_on_white_with_a_warning(tmp_path):
    colour = np.full((16, 16, 3), 0.2, np.float32)
    alpha = np.zeros((16, 16), np.float32)
    alpha[:8] = 0.5
    with pytest.warns(UserWarning, match="flattened on white"):
        write_image(Picture(colour, alpha), tmp_path / "a.jpg")
    back = read_image(tmp_path / "a.jpg").colour
    assert np.abs(back[:6] - 0.6).max() < 0.02
    assert np.abs(back[10:] - 1).max() < 0.02


def test_alpha_in_webp_survives(tmp_path):
    picture = smooth_picture(alpha=True)
    write_image(picture, tmp_path / "a.webp")
    assert np.abs(read_image(tmp_path / "a.webp").alpha - picture.alpha).max() < 0.01


def test_quality_changes_the_size_of_jpeg(tmp_path):
    picture, _ = random_picture(64, 64)
    for quality in (50, 95):
        write_image(picture, tmp_path / f"{quality}.jpg", quality=quality)
    assert os.path.getsize(tmp_path / "50.jpg") < 0.6 * os.path.getsize(tmp_path / "95.jpg")
    with pytest.raises(ValueError, match="from 1 to 100"):
        write_image(picture, tmp_path / "0.jpg", quality=0)


def test_too_long_exif_for_jpeg_is_dropped_with_a_warning(tmp_path):
    exif = Image.Exif()
    exif[0x9286] = b"x" * 70000
    picture = Picture(smooth_picture().colour, exif=exif.tobytes())
    with pytest.warns(UserWarning, match="too long for JPEG"):
        write_image(picture, tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").exif is None


def test_values_out_of_range_are_clamped(tmp_path):
    colour = np.array([[[-1.0], [2.0], [0.5]]], np.float32)
    write_image(Picture(colour), tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").quantised().ravel().tolist() == [0, 255, 128]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp", ".tif"])
def test_values_that_are_not_finite_are_named_and_never_black(tmp_path, value, extension):
    path = tmp_path / f"a{extension}"
    with pytest.raises(ImageError, match="NaN or infinite; compute it again") as caught:
        write_image(Picture(np.full((2, 2, 3), value, np.float32)), path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not path.exists()


def test_same_picture_same_bytes(tmp_path):
    picture, _ = random_picture(bits=16)
    for extension in (".png", ".tif"):
        for name in "ab":
            write_image(picture, tmp_path / f"{name}{extension}")
        assert (tmp_path / f"a{extension}").read_bytes() == (tmp_path / f"b{extension}").read_bytes()


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"precious")
    picture, _ = random_picture()
    with pytest.raises(ImageError, match="already exists"):
        write_image(picture, path)
    assert path.read_bytes() == b"precious"
    write_image(picture, path, overwrite=True)
    assert read_image(path).size == picture.size
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_link_to_nothing_is_replaced_on_request_only(tmp_path):
    path = tmp_path / "a.png"
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(ImageError, match="already exists"):
        write_image(random_picture()[0], path)
    assert path.is_symlink()
    write_image(random_picture()[0], path, overwrite=True)
    assert [(p.name, p.is_symlink()) for p in tmp_path.iterdir()] == [("a.png", False)]


def test_without_links_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*names):
        raise PermissionError(errno.EPERM, "")

    for name in ("link", "replace"):
        monkeypatch.setattr(f"linearsr.runtime.files.os.{name}", refuse)
    with pytest.raises(ImageError, match="no permission"):
        write_image(random_picture()[0], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_program_makes_meanwhile_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    monkeypatch.setattr(writing, "encode_image", lambda *_: bytes(path.write_bytes(b"precious")))
    with pytest.raises(ImageError, match="another program"):
        write_image(random_picture()[0], path)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_new_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_image(random_picture()[0], tmp_path / "a.png")
    finally:
        os.umask(old)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "disk is full"),
        (OSError(122, "Disk quota exceeded"), "quota"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError(13, "Permission denied"), "no permission"),
        (OSError(1, "Operation not permitted"), "no permission"),
        (OSError(30, "Read-only file system"), "read-only"),
        (KeyboardInterrupt(), None),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_stops_writing_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, error, words, overwrite):
    path = tmp_path / "a.png"
    if overwrite:
        path.write_bytes(b"precious")

    def fail(file, data):
        with file.open("wb") as opened:
            opened.write(data[:10])
            raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ImageError if words else KeyboardInterrupt, match=words) as caught:
        write_image(random_picture()[0], path, overwrite=overwrite)
    assert "\n" not in str(caught.value)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"precious"] * overwrite


def test_bad_targets_give_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        tmp_path / "a.gif": "use one of .png",
        tmp_path / "a": "no extension",
        tmp_path / "none" / "a.png": "does not exist",
        tmp_path / "file" / "a.png": "not a folder",
        tmp_path / "folder.png": "is a folder",
        tmp_path / "pipe.png": "device or pipe",
        tmp_path / ("x" * 300 + ".png"): "too long",
        tmp_path / "a\0.png": "cannot be written",
    }
    for path, words in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            write_image(random_picture()[0], path, overwrite=True)
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png", "pipe.png"]


@pytest.mark.skipif(not Path("/proc").exists(), reason="Linux has such a folder")
def test_a_folder_that_takes_no_files_is_not_said_to_be_missing():
    with pytest.raises(ImageError, match="no permission to write there; choose another folder"):
        write_image(random_picture()[0], "/proc/x.png")


@pytest.mark.parametrize(("extension", "length"), [(".jpg", 65501), (".webp", 16384)])
def test_too_large_for_the_format_is_one_line(tmp_path, extension, length):
    with pytest.raises(ImageError, match="write PNG or TIFF"):
        write_image(Picture(np.zeros((1, length, 1), np.float32)), tmp_path / f"a{extension}")


@pytest.mark.parametrize("bits", [8, 16])
def test_more_than_a_tiff_can_hold_becomes_big_tiff(tmp_path, monkeypatch, bits):
    monkeypatch.setattr("linearsr.images.tiff._LARGEST_FILE", 100)
    monkeypatch.setattr("linearsr.images.tiff._STRIP_BYTES", 100)
    picture, integers = random_picture(channels=4, bits=bits, icc_profile=SRGB, exif=camera_exif(6, 999, 888))
    write_image(picture, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.is_bigtiff
        np.testing.assert_array_equal(file.asarray(), integers)
    again = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.quantised(), integers)
    assert again.icc_profile == SRGB
    assert parse_exif(again.exif)[271] == "A camera"
    assert parse_exif(again.exif).get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
