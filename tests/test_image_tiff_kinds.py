"""The full-size picture of a TIFF, and kinds of pixels that Pillow does not know."""

import io
import sys
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from linearsr.images.metadata import parse_exif
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_image, read_size
from linearsr.images.rows.reader import RowReader

rng = np.random.default_rng(0)
# nowhere 0, not even in 8 bits: colours under no alpha are filled in
DEEP = rng.integers(256, 65536, (12, 17, 4), dtype=np.uint16)
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


def test_what_the_first_page_says_goes_along_with_the_full_size_page(tmp_path):
    """As in a DNG: EXIF, XMP and the orientation are with the thumbnail, the picture hangs on it."""
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>a note</rdf:RDF></x:xmpmeta>'
    said = [(271, "s", 0, "A camera", True), (274, "H", 1, 6, True), (700, "B", len(packet), packet, True)]
    thumb = (DEEP[:3, :4, :3] >> 8).astype(np.uint8)
    full = (DEEP[..., :3] >> 8).astype(np.uint8)
    rgb = {"photometric": "rgb", "metadata": None}
    data = tiff((thumb, {**rgb, "subfiletype": 1, "subifds": 1, "extratags": said}), (full, rgb))
    (tmp_path / "a.tif").write_bytes(data)
    picture = read_image(data)
    assert np.array_equal(picture.quantised(), full.swapaxes(0, 1)[:, ::-1])
    assert parse_exif(picture.exif)[271] == "A camera"
    assert b"a note" in picture.xmp
    rows = RowReader(tmp_path / "a.tif", tmp_path)
    assert np.array_equal(np.rint(rows.read(0, 17) * 255), picture.quantised())
    assert parse_exif(rows.notes.exif)[271] == "A camera"


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
        with pytest.raises(ImageError, match=r"^\S+: is a camera RAW file; convert it"):
            read()


@pytest.mark.parametrize(
    "begin",
    [
        b"FUJIFILMCCD-RAW ",
        b"IIRO\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"\0\0\0\x18ftypcrx ",
        b"II\x1a\0\0\0HEAPCCDR",
        b"\0MRM\0\0\0\0",
    ],
)
def test_camera_raw_of_other_makes_is_one_line(begin):
    with pytest.raises(ImageError, match="is a camera RAW file; convert it"):
        read_image(begin + bytes(1000))


def read_both_ways(path, folder):
    """(colour, alpha) of the whole picture and of its rows."""
    whole, rows = read_image(path), RowReader(path, folder)
    colour = rows.read(0, rows.height)[..., : 1 if rows.is_grey else 3]
    assert rows.bits == whole.bits
    return whole.bits, [
        (whole.colour, whole.alpha),
        (colour, rows.read_alpha(0, rows.height) if rows.has_alpha else None),
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("compression", "options"),
    [
        (None, {}),
        (None, {"byteorder": ">"}),
        (None, {"tile": (16, 16)}),
        ("zlib", {"predictor": True}),
        ("zlib", {"predictor": True, "byteorder": ">"}),
        ("lzw", {}),
        ("zstd", {"tile": (16, 16)}),
    ],
)
def test_pixels_of_every_depth_and_layout_are_read_both_ways(
    tmp_path, dtype, channels, planar, compression, options
):
    source = UNIT.astype(dtype) if dtype in (np.float16, np.float32) else DEEP
    source = (source >> 8).astype(np.uint8) if dtype == np.uint8 else source
    source = np.concatenate([source, source[..., :1]], axis=2)[..., :channels]
    colours = 1 if channels < 3 else 3
    extra = channels - colours
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.ascontiguousarray(source if planar == "contig" or channels == 1 else np.moveaxis(source, 2, 0)),
        photometric="minisblack" if colours == 1 else "rgb",
        planarconfig=planar if channels > 1 else None,
        extrasamples=(["unassalpha"] + ["unspecified"] * (extra - 1)) if extra else None,
        compression=compression,
        **options,
    )
    scale = np.iinfo(dtype).max if source.dtype.kind == "u" else 1
    expected = source.astype(np.float32) / scale
    bits, ways = read_both_ways(tmp_path / "a.tif", tmp_path)
    assert bits == (8 if dtype == np.uint8 else 16)
    for colour, alpha in ways:
        np.testing.assert_allclose(colour, expected[..., :colours], atol=1e-5)
        assert (alpha is not None) == bool(extra)
        if extra:
            np.testing.assert_allclose(alpha, expected[..., colours], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_may_be_zero(tmp_path, dtype, compression):
    source = DEEP[..., 0] if dtype == np.uint16 else UNIT[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", source.copy(), photometric="miniswhite", compression=compression)
    expected = 1 - source.astype(np.float32) / (65535 if dtype == np.uint16 else 1)
    for colour, _ in read_both_ways(tmp_path / "a.tif", tmp_path)[1]:
        np.testing.assert_allclose(colour[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize("photometric", ["cielab", "icclab"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_becomes_srgb(tmp_path, photometric, dtype):
    rgb = np.array([(255, 255, 255), (128, 128, 128), (200, 150, 120), (60, 90, 50), (40, 60, 140)], np.uint8)
    srgb, profile = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    stored = ImageCms.profileToProfile(Image.fromarray(rgb[None]), srgb, profile, outputMode="LAB")
    lab = np.asarray(stored).astype(float)[0] * (100 / 255, 1, 1)
    lab[:, 1:] -= 256 * (lab[:, 1:] > 127)
    deep = dtype == np.uint16
    white = 255 if not deep else 65280 if photometric == "icclab" else 65535
    steps = np.rint((lab[:, 1:] + (128 if photometric == "icclab" else 0)) * (256 if deep else 1)).astype(int)
    samples = np.concatenate([np.rint(lab[:, :1] * white / 100).astype(int), steps], axis=1).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", np.tile(samples[None], (4, 2, 1)), photometric=photometric)
    bits, ways = read_both_ways(tmp_path / "a.tif", tmp_path)
    assert bits == (16 if deep else 8)
    for colour, _ in ways:
        np.testing.assert_allclose(colour[0], np.tile(rgb / np.float32(255), (2, 1)), atol=0.02)


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (DEEP[..., 0].astype(np.uint32) * 9, {"photometric": "minisblack"}, "unknown range"),
        (DEEP[..., :3].astype(np.uint32), {"photometric": "rgb"}, "32-bit RGB of 3 channels"),
        (DEEP[..., :3].astype(np.int16), {"photometric": "rgb"}, "16-bit signed RGB of 3 channels"),
        ((DEEP[..., 0] >> 1).astype(np.int16), {"photometric": "minisblack"}, "unknown range"),
        (DEEP[..., 0].astype(np.int8), {"photometric": "minisblack"}, "8-bit signed grey"),
        (UNIT[..., :3] * 300, {"photometric": "rgb"}, "float pixels from .* scale them"),
        (
            np.zeros((12, 17, 40), np.uint16),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "of 40 channels",
        ),
    ],
)
def test_pixels_that_are_no_picture_are_named_both_ways(tmp_path, array, options, words):
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    for read in (lambda: read_image(tmp_path / "a.tif"), lambda: RowReader(tmp_path / "a.tif", tmp_path)):
        with pytest.raises(ImageError, match=words):
            read()


def test_sixteen_bits_of_cmyk_become_eight_in_words(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff((DEEP, {"photometric": "separated"})))
    for read in (read_image, lambda path: RowReader(path, tmp_path)):
        with pytest.warns(UserWarning, match="of its 16 bits per channel 8 are used, for it is CMYK"):
            assert read(tmp_path / "a.tif").bits == 8


def test_webp_in_tiff_is_read_both_ways(tmp_path):
    pixels = (DEEP[..., :3] >> 8).astype(np.uint8)
    options = {"photometric": "rgb", "compression": "webp", "compressionargs": {"lossless": True}}
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    bits, ways = read_both_ways(tmp_path / "a.tif", tmp_path)
    assert bits == 8
    for colour, _ in ways:
        assert np.array_equal(np.rint(colour * 255), pixels)


def test_a_tiff_cut_in_its_directory_is_truncated():
    data = tiff((DEEP[..., :3], {"photometric": "rgb"}))
    at = int.from_bytes(data[4:8], "little")
    cut = data[: at + 2 + 12]  # of all tags one is left
    with pytest.raises(ImageError, match="is a broken TIFF file: its header is damaged or truncated"):
        read_image(cut)


def test_without_the_library_the_pixels_are_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match=r"float RGB of 3 channels; pip install 'linearsr\[large\]'"):
        read_image(tiff((UNIT[..., :3].copy(), {"photometric": "rgb"})))


@pytest.mark.parametrize("white", [1023, 65535])
def test_ppm_keeps_all_its_bits(white):
    samples = DEEP[..., :3].astype(int) % (white + 1)
    head = b"\n# a comment\n17 12\n%d\n" % white
    plain = " ".join(map(str, samples.flat)).encode()
    for data in (b"P6" + head + samples.astype(">u2").tobytes(), b"P3" + head + plain):
        picture = read_image(data)
        assert picture.bits == 16
        np.testing.assert_allclose(picture.colour, samples / white, atol=1e-5)
