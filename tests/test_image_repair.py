"""Damage beside the pixels, or at their end, does not cost the picture: it is read, and what is missing is said."""

import io
import re
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from image_tools import SMOOTH, encoded, levels, png_chunk
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_image, read_size
from linearsr.images.rows.reader import RowReader

NOISE = (SMOOTH // 2 + np.random.default_rng(0).integers(0, 60, SMOOTH.shape)).astype(np.uint8)
PNG = encoded(NOISE)


def with_chunk(chunk, before=b"IDAT", data=PNG):
    at = data.index(before) - 4
    return data[:at] + chunk + data[at:]


def bad(kind, data=b"Comment\0words"):
    chunk = png_chunk(kind, data)
    return chunk[:-1] + bytes([chunk[-1] ^ 255])


def rows_of(data, folder, name="photo.png", **options):
    path = folder / name
    path.write_bytes(data)
    reader = RowReader(path, folder, **options)
    return np.rint(reader.read(0, reader.height) * 255).astype(int)


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"eXIf", b"iCCP", b"prVt"])
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_wrong_checksum_beside_the_pixels_leaves_the_picture(tmp_path, kind, before):
    data = with_chunk(bad(kind), before)
    with pytest.warns(UserWarning, match=f"wrong checksum outside its pixels \\({kind.decode()}\\)"):
        assert np.array_equal(levels(read_image(data)), NOISE)
    with pytest.warns(UserWarning, match="wrong checksum"):
        assert np.array_equal(rows_of(data, tmp_path), NOISE)
    assert read_size(io.BytesIO(data), "a") == NOISE.shape[:2]
    with pytest.raises(ImageError, match=r"wrong checksum.*; get a new copy"):
        read_image(data, strict=True)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_text_of_any_length_does_not_stop_a_picture_and_is_carried(tmp_path, kind):
    head = b"workflow\0\0" if kind == b"zTXt" else b"workflow\0\1\0\0\0"
    text = head + zlib.compress(bytes(80_000_000))
    data = with_chunk(png_chunk(kind, text))
    picture = read_image(data)
    assert np.array_equal(levels(picture), NOISE)
    assert picture.png_texts == ((kind, text),)
    assert np.array_equal(rows_of(data, tmp_path), NOISE)


def test_a_profile_of_megabytes_is_carried(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    long = len(profile) + 3_000_000
    profile = long.to_bytes(4, "big") + profile[4:] + np.random.default_rng(1).bytes(3_000_000)
    data = with_chunk(png_chunk(b"iCCP", b"long\0\0" + zlib.compress(profile)))
    assert read_image(data).icc_profile == profile
    assert np.array_equal(rows_of(data, tmp_path), NOISE)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1"])
def test_of_a_cut_png_the_rows_that_are_there_are_read(tmp_path, interlaced, mode):
    image = Image.fromarray(NOISE).convert(mode)
    data = encoded(image)
    if interlaced:
        pyvips = pytest.importorskip("pyvips")
        image.save(tmp_path / "plain.png")
        data = pyvips.Image.new_from_file(str(tmp_path / "plain.png")).pngsave_buffer(interlace=True)
    whole = levels(read_image(data))
    said = r"\d+% of its pixels are missing" if interlaced else r"the last \d+ of its 48 rows are missing"
    with pytest.warns(UserWarning, match=said) as caught:
        got = levels(read_image(data[: len(data) * 2 // 3]))
    assert got.shape == whole.shape
    if not interlaced:
        there = 48 - int(str(caught[0].message).split("the last ")[1].split()[0])
        assert 10 < there < 40
        assert np.array_equal(got[:there], whole[:there])
        assert not np.array_equal(got[there:], whole[there:])
        with pytest.warns(UserWarning, match="rows are missing"):
            rows = rows_of(data[: len(data) * 2 // 3], tmp_path)
        assert np.array_equal(rows[:there], whole[:there, :, :3] * np.ones(3, int))
    else:
        kept = (got == whole).all(axis=2)
        assert 0.3 < kept.mean() < 1
        assert not got[~kept][..., :3].any()
    with pytest.raises(ImageError, match="truncated"):
        read_image(data[: len(data) * 2 // 3], strict=True)


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        *((PNG, cut) for cut in (1, 4, 12)),
        *((encoded(NOISE, "JPEG", quality=90, progressive=progressive), 2) for progressive in (False, True)),
    ],
)
def test_a_file_without_its_end_alone_is_whole(data, cut):
    with pytest.warns(UserWarning, match="its end is missing, but all of its rows are there"):
        assert np.array_equal(levels(read_image(data[:-cut])), levels(read_image(data)))


def test_a_progressive_jpeg_that_ends_within_a_header_is_read():
    data = encoded(NOISE, "JPEG", quality=90, progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff[\xc4\xda]", data)]
    first_scan = data.index(b"\xff\xda")
    for start in (start for start in starts if start > first_scan):
        for cut in (start + 1, start + 3, start + 7):
            with pytest.warns(UserWarning, match="is truncated: "):
                assert np.abs(levels(read_image(data[:cut])) - NOISE).mean() < 40


def test_of_a_cut_jpeg_the_rows_that_are_there_are_read(tmp_path):
    data = encoded(NOISE, "JPEG", quality=90)
    whole = levels(read_image(data))
    cut = data[: len(data) * 2 // 3]
    with pytest.warns(UserWarning, match=r"the last \d+ of its 48 rows are missing"):
        got = levels(read_image(cut))
    assert np.array_equal(got[:12], whole[:12])
    assert (got[-1] == 128).all()
    with pytest.warns(UserWarning, match=r"the last \d+ of its 48 rows are missing"):
        rows = rows_of(cut, tmp_path, "photo.jpg")
    assert np.array_equal(rows, got)
    with pytest.raises(ImageError, match="truncated"):
        read_image(cut, strict=True)


DEEP_NOISE = NOISE.astype(np.uint16) * 257


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", **options)
    return file.getvalue()


CUT_BY_ROWS = {
    "bmp": encoded(NOISE, "BMP"),
    "gif": encoded(Image.fromarray(NOISE).quantize(64), "GIF", interlace=0),
    "transparent.gif": encoded(Image.fromarray(NOISE).quantize(64), "GIF", interlace=0, transparency=3),
    "ppm": encoded(NOISE, "PPM"),
    "tga": encoded(NOISE, "TGA"),
    "lossless.webp": encoded(NOISE, "WEBP", lossless=True),
    "webp": encoded(NOISE, "WEBP", quality=90),
    "tif": tiff(NOISE),
    "strips.tif": tiff(NOISE, rowsperstrip=4, compression="zlib"),
    "lzw.tif": tiff(NOISE, rowsperstrip=4, compression="lzw"),
    "deep.tif": tiff(DEEP_NOISE),
    "float.tif": tiff((NOISE / 255).astype(np.float32)),
}


@pytest.mark.parametrize("name", CUT_BY_ROWS)
def test_of_a_cut_file_the_rows_that_are_there_are_read(tmp_path, name):
    data = CUT_BY_ROWS[name]
    whole = read_image(data)
    cut = data[: len(data) * 2 // 3]
    with pytest.warns(
        UserWarning, match=r"is truncated: the (last|first) \d+ of its 48 rows are missing"
    ) as caught:
        got = read_image(cut)
    missing = int(re.search(r"(\d+) of its 48", str(caught[0].message))[1])
    assert 8 <= missing <= 40
    assert got.bits == whole.bits
    same = (got.colour == whole.colour).all(axis=(1, 2))
    assert 48 - missing - 1 <= same.sum() <= 48 - missing
    there = slice(missing, None) if name in ("bmp", "tga") else slice(0, 48 - missing - 1)
    assert same[there].all()
    assert not got.colour[~same][1:-1].any()
    with pytest.warns(UserWarning, match="rows are missing"):
        rows = rows_of(cut, tmp_path, name)
    shown = np.ones((48, 64), bool) if got.alpha is None else got.alpha > 0
    assert np.array_equal(rows[shown], np.rint(got.colour * 255).astype(int)[shown])
    with pytest.raises(ImageError, match=r"truncated: .*; get a new copy"):
        read_image(cut, strict=True)


@pytest.mark.parametrize("options", [{}, {"irreversible": True}, {"tile_size": (16, 16)}, {"no_jp2": True}])
def test_of_a_cut_jpeg_2000_detail_is_missing(tmp_path, options):
    data = encoded(NOISE, "JPEG2000", **options)
    with pytest.warns(UserWarning, match="is truncated: its end is missing, and fine detail with it"):
        got = levels(read_image(data[: len(data) * 2 // 3]))
    error = np.abs(got - NOISE)
    assert error.mean() < (60 if "tile_size" in options else 15)
    for cut in (1, 2, 3):
        with pytest.warns(UserWarning, match="its end is missing"):
            assert np.abs(levels(read_image(data[:-cut])) - NOISE).max() < 16
    with pytest.raises(ImageError, match="its end is missing"):
        read_image(data[:-2], strict=True)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_a_cut_file_is_never_called_no_image(file_format):
    data = encoded(NOISE, file_format)
    for cut in (16, 30, len(data) // 8, len(data) // 3, len(data) - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = outcome_of(data[:cut])
        assert outcome == (64, 48) or "not an image" not in outcome, cut


def outcome_of(data):
    try:
        return read_image(data).size
    except ImageError as error:
        return str(error)
