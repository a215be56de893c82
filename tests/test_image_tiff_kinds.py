"""The full-size picture of a TIFF, and kinds of pixels that Pillow does not know."""

import io
import warnings

import numpy as np
import pytest
import tifffile

from linearsr.images.io import ImageError, read_image, read_size
from linearsr.images.rows.reader import RowReader

rng = np.random.default_rng(0)
DEEP = rng.integers(0, 65536, (12, 17, 4), dtype=np.uint16)
UNIT = rng.random((12, 17, 4), dtype=np.float32)


def tiff(*pages):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for array, options in pages:
            writer.write(array, **options)
    return file.getvalue()


def test_the_full_size_page_is_taken_whatever_comes_first():
    thumb = DEEP[:3, :4, :3].copy()
    full = DEEP[..., :3].copy()
    rgb = {"photometric": "rgb"}
    for pages in (
        [(thumb, {**rgb, "subfiletype": 1}), (full, rgb)],
        [(thumb, {**rgb, "subfiletype": 1, "subifds": 1}), (full, rgb)],
        [(full, rgb), (thumb, {**rgb, "subfiletype": 1})],
    ):
        data = tiff(*pages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.array_equal(read_image(data).quantised(), full)
        assert read_size(io.BytesIO(data), "a") == (12, 17)


@pytest.mark.parametrize("sensor", ["cfa", "linear_raw"])
def test_camera_raw_is_one_line(tmp_path, sensor):
    photometric = 32803 if sensor == "cfa" else 34892
    raw = DEEP[..., 0] if sensor == "cfa" else DEEP[..., :3]
    data = tiff(
        (np.zeros((3, 4, 3), np.uint8), {"photometric": "rgb", "subfiletype": 1, "subifds": 1}),
        (raw.copy(), {"photometric": photometric}),
    )
    (tmp_path / "a.tif").write_bytes(data)
    for read in (lambda: read_image(data), lambda: RowReader(tmp_path / "a.tif", tmp_path)):
        with pytest.raises(ImageError, match="is a camera RAW file; develop it"):
            read()


@pytest.mark.parametrize(
    "begin", [b"FUJIFILMCCD-RAW ", b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0", b"\0\0\0\x18ftypcrx "]
)
def test_camera_raw_of_other_makes_is_one_line(begin):
    with pytest.raises(ImageError, match="is a camera RAW file; develop it"):
        read_image(begin + bytes(1000))


@pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pixels_that_pillow_does_not_know(dtype, channels, planar, compression):
    source = DEEP if dtype == np.uint16 else UNIT.astype(dtype)
    source = np.concatenate([source, source[..., :1]], axis=2)[..., :channels]
    colours = 1 if channels < 3 else 3
    extra = channels - colours
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.ascontiguousarray(source if planar == "contig" or channels == 1 else np.moveaxis(source, 2, 0)),
        photometric="minisblack" if colours == 1 else "rgb",
        planarconfig=planar if channels > 1 else None,
        extrasamples=(["unassalpha"] + ["unspecified"] * (extra - 1)) if extra else None,
        compression=compression,
    )
    is_separate = planar == "separate" and channels > 1
    if is_separate and (dtype == np.float16 or colours == 1):
        with pytest.raises(ImageError, match=r"16-bit|32-bit.*in separate planes; save it"):
            read_image(file.getvalue())
        return
    picture = read_image(file.getvalue())
    scale = 65535 if dtype == np.uint16 else 1
    expected = source.astype(np.float32) / scale
    np.testing.assert_allclose(picture.colour, expected[..., :colours], atol=1e-6)
    if extra:
        np.testing.assert_allclose(picture.alpha, expected[..., colours], atol=1e-6)
    assert picture.bits == 16


def test_deep_grey_with_alpha_is_read_alike_in_strips(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, DEEP[..., :2].copy(), photometric="minisblack", extrasamples=["unassalpha"])
    whole, rows = read_image(path), RowReader(path, tmp_path)
    assert (rows.bits, rows.is_grey, rows.has_alpha) == (16, True, True)
    np.testing.assert_allclose(rows.read(0, 12)[..., :1], whole.colour, atol=1e-6)
    np.testing.assert_array_equal(rows.read_alpha(0, 12), whole.alpha)


def test_float_colour_is_named_in_strips(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", UNIT[..., :3].copy(), photometric="rgb")
    with pytest.raises(ImageError, match=r"32-bit float RGB of 3 channels.*convert it to RGB"):
        RowReader(tmp_path / "a.tif", tmp_path)


@pytest.mark.parametrize("white", [1023, 65535])
def test_ppm_keeps_all_its_bits(white):
    samples = DEEP[..., :3].astype(int) % (white + 1)
    picture = read_image(b"P6\n# a comment\n17 12\n%d\n" % white + samples.astype(">u2").tobytes())
    assert picture.bits == 16
    np.testing.assert_allclose(picture.colour, samples / white, atol=1e-5)
