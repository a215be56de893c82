"""Rows in and rows out: the pixels and notes of the whole-picture way, in memory that does not hold the picture."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_tools import BAD_BYTES, SRGB, camera_exif, smooth_picture
from linearsr.images.alpha import fill_transparent, resize_alpha
from linearsr.images.convert import lr_tensor
from linearsr.images.metadata import parse_exif
from linearsr.images.picture import ImageError, Picture
from linearsr.images.reading import read_image
from linearsr.images.rows import row_file
from linearsr.images.rows.reader import RowReader
from linearsr.images.rows.writer import RowWriter
from linearsr.images.writing import write_image

HEIGHT, WIDTH = 61, 47


@pytest.fixture(autouse=True)
def _small_strips(monkeypatch):
    """So that small pictures take many strips."""
    monkeypatch.setattr(row_file, "_STRIP_SAMPLES", 1000)
    monkeypatch.setattr("linearsr.images.rows.reader._HELD_PIXELS", 100)


def picture(channels=3, bits=8, **notes):
    return smooth_picture(HEIGHT, WIDTH, channels, bits, **notes)


def pillow_modes():
    rgb = Image.fromarray(picture().quantised())
    yield from ((mode, rgb.convert(mode)) for mode in ("1", "L", "P", "RGB", "CMYK"))
    yield "RGBA", Image.fromarray(picture(4).quantised())
    yield "LA", Image.fromarray(picture(2).quantised())


FILES = {
    **{f"{mode}.png": (image, {}) for mode, image in pillow_modes() if mode != "CMYK"},
    **{f"{mode}.tif": (image, {}) for mode, image in pillow_modes()},
    **{
        f"{mode}.jpg": (image, {"quality": 90})
        for mode, image in pillow_modes()
        if mode in ("L", "RGB", "CMYK")
    },
    **{
        f"turned {n}.png": (Image.fromarray(picture().quantised()), {"exif": camera_exif(n)})
        for n in range(1, 9)
    },
    "key.png": (Image.fromarray(picture().quantised()).quantize(9), {"transparency": 3}),
    "notes.jpg": (
        Image.fromarray(picture().quantised()),
        {"icc_profile": SRGB, "exif": camera_exif(6), "dpi": (300, 300)},
    ),
    "notes.tif": (Image.fromarray(picture().quantised()), {"exif": camera_exif(5), "dpi": (300, 300)}),
    "progressive.jpg": (
        Image.fromarray(picture().quantised()),
        {"progressive": True, "exif": camera_exif(3)},
    ),
    "lzw.tif": (Image.fromarray(picture().quantised()), {"compression": "tiff_lzw"}),
    "jpeg.tif": (Image.fromarray(picture().quantised()), {"compression": "jpeg"}),
    "zstd.tif": (Image.fromarray(picture().quantised()), {"compression": "zstd"}),
    "ycbcr.tif": (Image.fromarray(picture().quantised()).convert("YCbCr"), {}),
    "lab.tif": (Image.new("LAB", (WIDTH, HEIGHT), (99, 30, 220)), {}),
    "a.webp": (Image.fromarray(picture(4).quantised()), {"lossless": True}),
    "a.gif": (Image.fromarray(picture().quantised()), {}),
    "a.bmp": (Image.fromarray(picture().quantised()), {}),
    "a.jp2": (Image.fromarray(picture().quantised()), {}),
    "a.avif": (Image.fromarray(picture().quantised()), {}),
}


def assert_same_as_whole(path, folder):
    whole = read_image(path)
    rows = RowReader(path, folder)
    assert (rows.width, rows.height) == whole.size
    assert (rows.bits, rows.is_grey, rows.has_alpha) == (
        whole.bits,
        whole.colour.shape[2] == 1,
        whole.alpha is not None,
    )
    expected = (lr_tensor(whole)[0].permute(1, 2, 0).numpy() + 1) / 2
    for top, bottom in ((0, 9), (5, 20), (0, rows.height), (rows.height - 1, rows.height)):
        np.testing.assert_allclose(rows.read(top, bottom), expected[top:bottom], atol=1e-6)
        if whole.alpha is not None:
            np.testing.assert_array_equal(rows.read_alpha(top, bottom), whole.alpha[top:bottom])
    assert (rows.notes.icc_profile, rows.notes.dpi) == (whole.icc_profile, whole.dpi)
    assert exif_tags(rows.notes.exif) == exif_tags(whole.exif)


def exif_tags(block):
    tags = parse_exif(block)
    inner = [dict(tags.get_ifd(kind)) for kind in (0x8769, 0x8825) if kind in tags]
    # Pillow turns a TIFF upright by itself, and then there is no orientation any more
    return {tag: value for tag, value in tags.items() if tag not in (0x0112, 0x8769, 0x8825)}, inner


@pytest.mark.parametrize("name", FILES)
def test_rows_of_every_kind_of_file_are_those_of_the_whole(tmp_path, name):
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    assert_same_as_whole(tmp_path / name, tmp_path)


@pytest.mark.parametrize("has_default", [False, True])
def test_the_first_picture_of_an_animated_png(tmp_path, has_default):
    """With and without one for viewers that show no animation."""
    image = FILES["RGB.png"][0]
    others = [image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)] * 2
    image.save(tmp_path / "a.png", save_all=True, default_image=has_default, append_images=others)
    with pytest.warns(UserWarning, match="several frames"):
        assert_same_as_whole(tmp_path / "a.png", tmp_path)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_sixteen_bits(tmp_path, channels, extension):
    write_image(picture(channels, 16, exif=camera_exif(), dpi=(150, 300)), tmp_path / f"a{extension}")
    assert_same_as_whole(tmp_path / f"a{extension}", tmp_path)


def test_colours_multiplied_by_alpha_are_divided_by_it(tmp_path):
    straight = picture(4).quantised()
    multiplied = straight.copy()
    multiplied[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / 255.0))
    tifffile.imwrite(tmp_path / "a.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"])
    assert_same_as_whole(tmp_path / "a.tif", tmp_path)


def test_exif_behind_the_pixels_of_a_png_is_found(tmp_path):
    Image.fromarray(picture().quantised()).save(tmp_path / "a.png", exif=camera_exif(8))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    (tmp_path / "a.png").write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
    assert_same_as_whole(tmp_path / "a.png", tmp_path)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
def test_filling_by_strips_is_that_of_the_whole(tmp_path_factory, height, width, share, seed):
    random = np.random.default_rng(seed)
    colour = random.random((height, width, 3), dtype=np.float32)
    alpha = (random.random((height, width)) < share).astype(np.float32)
    folder = tmp_path_factory.mktemp("a")
    write_image(Picture(colour, alpha, 16), folder / "a.png")
    whole = read_image(folder / "a.png")
    rows = RowReader(folder / "a.png", folder)
    np.testing.assert_allclose(rows.read(0, height), fill_transparent(whole.colour, alpha), atol=1e-6)


def doubled(path, target, folder, strip=7):
    """Twice as large by repeating pixels, by rows."""
    reader = RowReader(path, folder)
    writer = RowWriter(target, (2 * reader.height, 2 * reader.width), reader, folder)
    for top in range(0, reader.height, strip):
        writer.write(reader.read(top, min(top + strip, reader.height)).repeat(2, axis=0).repeat(2, axis=1))
    return writer


def doubled_whole(path, tags):
    whole = read_image(path)
    size = (2 * whole.size[1], 2 * whole.size[0])
    alpha = None if whole.alpha is None else resize_alpha(whole.alpha, size)
    colour = whole.colour if whole.alpha is None else fill_transparent(whole.colour, whole.alpha)
    return replace(whole, colour=colour.repeat(2, axis=0).repeat(2, axis=1), alpha=alpha, tags=tags)


def notes_of(path):
    whole = read_image(path)
    with Image.open(path) as image:
        image.load()
        xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return whole.bits, whole.icc_profile, whole.dpi, exif_tags(whole.exif), xmp


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("extension", [".png", ".tif", ".jpg", ".webp", ".avif"])
@pytest.mark.filterwarnings("ignore:.*flattened on white")
def test_a_result_by_rows_is_the_result_at_once(tmp_path, channels, bits, extension):
    notes = {"exif": camera_exif(), "dpi": (300, 300), "icc_profile": SRGB if channels > 2 else None}
    write_image(picture(channels, bits, **notes), tmp_path / "in.png")
    tags = ("sky", "façade")
    write_image(doubled_whole(tmp_path / "in.png", tags), tmp_path / f"whole{extension}")
    shares = []
    doubled(tmp_path / "in.png", tmp_path / f"rows{extension}", tmp_path).close(tags, shares.append)
    whole, rows = (read_image(tmp_path / f"{name}{extension}") for name in ("whole", "rows"))
    # a difference of 1 before it is encoded may be larger behind
    most = 3 if extension == ".avif" else 1.01
    np.testing.assert_allclose(rows.colour, whole.colour, atol=most / (255 if rows.bits == 8 else 65535))
    if whole.alpha is not None:
        np.testing.assert_allclose(rows.alpha, whole.alpha, atol=1.01 / (255 if rows.bits == 8 else 65535))
    assert notes_of(tmp_path / f"rows{extension}") == notes_of(tmp_path / f"whole{extension}")
    assert shares == sorted(shares)


def test_a_file_past_the_limit_of_tiff_is_big_tiff(tmp_path, monkeypatch):
    monkeypatch.setattr("linearsr.images.tiff._LARGEST_FILE", 100)
    write_image(picture(bits=16), tmp_path / "in.png")
    doubled(tmp_path / "in.png", tmp_path / "out.tif", tmp_path).close()
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.is_bigtiff
        assert file.asarray().shape == (2 * HEIGHT, 2 * WIDTH, 3)


def test_a_result_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    write_image(picture(), tmp_path / "in.png")
    writer = doubled(tmp_path / "in.png", tmp_path / "out.png", tmp_path)
    assert not (tmp_path / "out.png").exists()
    with monkeypatch.context() as full:
        full.setattr("shutil.copyfileobj", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(ImageError, match="the disk is full"):
            writer.close()
    assert not (tmp_path / "out.png").exists()
    writer.close()
    assert read_image(tmp_path / "out.png").size == (2 * WIDTH, 2 * HEIGHT)


def test_rows_that_are_missing_are_an_error(tmp_path):
    write_image(picture(), tmp_path / "in.png")
    reader = RowReader(tmp_path / "in.png", tmp_path)
    writer = RowWriter(tmp_path / "out.png", (HEIGHT, WIDTH), reader, tmp_path)
    writer.write(reader.read(0, 20))
    with pytest.raises(ValueError, match="row 20"):
        writer.close()


@pytest.mark.parametrize("kind", BAD_BYTES)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File|Image size:")
def test_what_cannot_be_read_by_rows_is_one_line(tmp_path, kind):
    data, words = BAD_BYTES[kind]
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        RowReader(tmp_path / "bad.png", tmp_path, max_pixels=64_000_000, strict=True)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'bad.png'}: ")
    assert not (tmp_path / "input.rows").exists()


def test_results_that_cannot_be_written(tmp_path):
    write_image(picture(), tmp_path / "in.png")
    reader = RowReader(tmp_path / "in.png", tmp_path)
    for name, size, words in (("a.webp", (16384, 10), "16383 of WEBP"), ("in.png", (9, 9), "already exists")):
        with pytest.raises(ImageError, match=words):
            RowWriter(tmp_path / name, size, reader, tmp_path)


MEASURE = """
import resource, sys
from pathlib import Path
from linearsr.images.rows.reader import RowReader
from linearsr.images.rows.writer import RowWriter
for folder in map(Path, sys.argv[1:]):
    reader = RowReader(folder / "in.png", folder)
    writer = RowWriter(folder / "out.png", (reader.height, reader.width), reader, folder)
    for top in range(0, reader.height, 16):
        writer.write(reader.read(top, top + 16))
    writer.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_height(tmp_path):
    folders = [tmp_path / "low", tmp_path / "high"]
    for folder, height in zip(folders, (1024, 16384), strict=True):
        folder.mkdir()
        Image.linear_gradient("L").resize((512, height)).convert("RGB").save(folder / "in.png")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders], capture_output=True, text=True, check=True
    )
    low, high = map(int, run.stdout.split())
    assert high - low < 0.5 * 3 * 512 * 16384  # half of its bytes, let alone its floats


def test_a_work_file_that_became_shorter_is_told(tmp_path):
    rows = row_file.RowFile(tmp_path / "work.rows", 4, 5, 1, np.dtype(np.float32))
    rows.append(np.zeros((3, 5, 1), np.float32))
    with pytest.raises(OSError, match=r"work\.rows: shorter than it was"):
        rows.read(1, 4)
