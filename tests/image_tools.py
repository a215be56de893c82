"""Image files for tests, made without the code under test."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from linearsr.images.picture import Picture

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGB8 = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)[..., None].repeat(3, -1)


def encoded(image, file_format="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour_type, raw, extra=b""):
    """A PNG around filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = (
        png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def smooth_picture(height, width, channels=3, bits=8, **notes):
    """Something smooth, with holes in its alpha; `channels` counts that, as in PNG."""
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = [np.sin(down / 9) / 4 + np.cos(across / (7 + n)) / 4 + 0.5 for n in range(3)]
    alpha = np.clip(np.sin(down / 5) + np.cos(across / 6), 0, 1).astype(np.float32)
    colour = np.stack(planes[: 1 if channels < 3 else 3], axis=2).astype(np.float32)
    return Picture(colour, alpha if channels in (2, 4) else None, bits, **notes)


def camera_exif(orientation=1, width=47, height=61):
    """With the size and the date of a photo, and its place."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0100] = "A camera", orientation, width
    exif[0x8769] = {0xA002: width, 0xA003: height, 0x9003: "2020:01:02 03:04:05"}
    exif[0x8825] = {1: "N", 2: (50.0, 30.0, 0.0)}
    return exif.tobytes()


def random_picture(height=13, width=17, channels=3, bits=8, seed=0, **metadata):
    """`channels` counts alpha, as in PNG: 2 is grey with alpha, 4 is RGBA."""
    integers = np.random.default_rng(seed).integers(0, 2**bits, (height, width, channels))
    samples = (integers / (2**bits - 1)).astype(np.float32)
    if channels in (2, 4):
        return Picture(samples[..., :-1].copy(), samples[..., -1].copy(), bits, **metadata), integers
    return Picture(samples, None, bits, **metadata), integers


def levels(picture):
    return picture.quantised().astype(int)


def float_tiff(value):
    values = np.full((4, 4), 0.5, np.float32)
    values[1, 1] = value
    return encoded(Image.fromarray(values), "TIFF")


def noise(path, width, height, **options):
    """A file of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


def smooth_photo(seed, size, grain=(12, 9)):
    """`grain` random pixels, enlarged; `seed` may be a generator."""
    small = np.random.default_rng(seed).integers(0, 256, (*reversed(grain), 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """A folder with a.png and sub/b.jpg."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    noise(folder / "a.png", 12, 10)
    noise(folder / "sub/b.jpg", 9, 14)
    return folder


# ---------------------------------------------------------------- what is no good image


def header_only_png(width, height):
    return png(width, height, 8, 2, b"")


def cut_short(path):
    """A file whose end is missing."""
    path.write_bytes(path.read_bytes()[:-200])


def half(data):
    return data[: len(data) // 2]


def damaged(data, at):
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def broken_crc():
    data = encoded(SMOOTH)
    return damaged(data, data.index(b"IEND") - 5)


def int32_tiff():
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[-5, 100000]], np.int32))
    return file.getvalue()


PNG, JPEG, TIFF = encoded(SMOOTH), encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "TIFF", compression="tiff_lzw")

BAD_BYTES = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x89", "not an image"),
    "zeros": (bytes(1000), "not an image"),
    "noise": (np.random.default_rng(0).bytes(1000), "not an image"),
    "text": (b"This is not a picture.\n" * 10, "not an image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not an image"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n", "not an image"),
    "zip": (b"PK\x03\x04" + bytes(100), "not an image"),
    "pickle": (b"\x80\x04\x95cposix\nsystem\n", "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "pam": (
        b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0",
        "is of type PAM, which cannot be read",
    ),
    "colour pfm": (b"PF\n1 1\n-1.0\n" + bytes(12), "is of type colour PFM"),
    "openexr": (b"v/1\x01\x02" + bytes(100), "is of type OpenEXR"),
    "radiance hdr": (
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + bytes(4),
        "is of type Radiance HDR",
    ),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
    "png signature only": (PNG[:8], "not an image|broken"),
    "png cut in the header": (PNG[:20], "not an image|broken"),
    "png cut in the pixels": (half(PNG), "truncated"),
    "png without its last pixels": (PNG[:-30], "truncated"),
    "png with a broken checksum": (broken_crc(), "broken"),
    "png with a damaged header": (damaged(PNG, 18), "broken"),
    "png without pixels": (header_only_png(10, 10), "truncated"),
    "png of zero width": (header_only_png(0, 10), "is a broken PNG file|has no pixels"),
    "png bomb": (png(50000, 50000, 1, 0, bytes(6251 * 1000)), "exceed|more pixels"),
    "png of 60000x60000": (header_only_png(60000, 60000), "exceed|more pixels"),
    "png of 9000x9000": (header_only_png(9000, 9000), "81 megapixels exceed the limit of 64"),
    "jpeg cut in the header": (JPEG[:100], "not an image|broken"),
    "jpeg cut in the pixels": (half(JPEG), "truncated"),
    "progressive jpeg cut": (half(encoded(SMOOTH, "JPEG", progressive=True)), "truncated"),
    "jpeg of three bytes": (JPEG[:4], "not an image|broken"),
    "jpeg without its end": (JPEG[:-2], "truncated"),
    "tiff cut": (half(TIFF), "not an image|broken|truncated"),
    "gif cut": (encoded(SMOOTH, "GIF")[:-200], "truncated"),
    "webp cut": (encoded(SMOOTH, "WEBP")[:-50], "not an image|broken|truncated"),
    "bmp cut": (encoded(SMOOTH, "BMP")[:-50], "truncated"),
    "tiff with NaN": (float_tiff(np.nan), "NaN"),
    "tiff with infinity": (float_tiff(np.inf), "NaN or infinite"),
    "tiff of kelvins": (float_tiff(293.0), "range 0 to 1"),
    "tiff of signed 32-bit integers": (int32_tiff(), "unknown range"),
    "ppm cut": (half(encoded(SMOOTH, "PPM")), "truncated"),
    "jpeg 2000 cut": (encoded(SMOOTH, "JPEG2000")[:60], "broken"),
    "gif signature only": (b"GIF89a", "not an image|broken"),
    "webp signature only": (b"RIFF\x10\0\0\0WEBP", "not an image|broken"),
    "png of no such colour": (png(8, 8, 8, 5, bytes(200)), "not an image|broken"),
    "bmp of 2^30 squared": (
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "exceed|broken",
    ),
    "tiff without its directory": (b"II*\0" + struct.pack("<I", 10_000), "not an image|broken"),
    "tiff in a circle": (b"II*\0" + struct.pack("<IHI", 8, 0, 8), "not an image|broken"),
    "strip of 5000x1": (encoded(np.zeros((1, 5000), np.uint8)), "one side is more than 1000 times the other"),
    "strip of 1x5000": (encoded(np.zeros((5000, 1), np.uint8)), "one side is more than 1000 times the other"),
}
"""Bytes of each kind, and the words of the error."""
