"""PNG with 16 bits per channel, which Pillow cannot write in colour (W3C PNG specification, third edition)."""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from linearsr.images.metadata import Metadata
from linearsr.images.texts import IPTC_KEYWORD, XMP_KEYWORD, as_raw_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Number of channels -> colour type: grey, grey and alpha, RGB, RGBA (section 11.2.1).
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PIXELS = {b"PLTE", b"tRNS", b"IDAT"}
_ROWS_AT_ONCE, _PAETH = 64, 4
_METRES_PER_INCH = 0.0254


def encode_png16(samples: NDArray[np.uint16], metadata: Metadata) -> bytes:
    """Encode (H, W, 1 to 4) 16-bit samples, alpha last."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, chunk(b"IHDR", header), *_metadata_chunks(metadata)]
    compressor = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    parts += [chunk(b"IDAT", block) for rows in _filtered(samples) if (block := compressor.compress(rows))]
    parts += [chunk(b"IDAT", compressor.flush()), chunk(b"IEND", b"")]
    return b"".join(parts)


def png_head(file: BinaryIO, metadata: Metadata) -> bytes:
    """All that is to come before the first chunk of pixels of an encoded PNG, at which `file` is left."""
    file.seek(len(SIGNATURE))
    parts = [SIGNATURE]
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind in _PIXELS:
            file.seek(-8, 1)
            return b"".join(parts)
        data = file.read(length)
        file.seek(4, 1)
        if kind == b"IHDR":
            parts += [chunk(kind, data), *_metadata_chunks(metadata)]


def _metadata_chunks(metadata: Metadata) -> list[bytes]:
    made = [chunk(kind, data) for kind, data in metadata.get("chunks", ())]
    if "icc_profile" in metadata:
        made.append(chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata["icc_profile"])))
    if "dpi" in metadata:
        per_metre = (round(value / _METRES_PER_INCH) for value in metadata["dpi"])
        made.append(chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if "exif" in metadata:
        made.append(chunk(b"eXIf", metadata["exif"].removeprefix(b"Exif\0\0")))
    if "xmp" in metadata:
        # an iTXt chunk: keyword, not compressed, no language, no translation (section 11.3.3.4)
        made.append(chunk(b"iTXt", XMP_KEYWORD.encode() + bytes(5) + metadata["xmp"]))
    if "iptc" in metadata:
        packed = zlib.compress(as_raw_profile(metadata["iptc"]).encode())
        made.append(chunk(b"zTXt", IPTC_KEYWORD.encode() + bytes(2) + packed))
    return made


def chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and checksum (section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(samples: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield rows as filter byte and bytes: their difference from what their neighbours foretell (section 9.4)."""
    height, width, channels = samples.shape
    step = 2 * channels
    above = np.zeros(width * step, np.uint8)
    for start in range(0, height, _ROWS_AT_ONCE):
        rows = samples[start : start + _ROWS_AT_ONCE].astype(">u2").view(np.uint8).reshape(-1, width * step)
        up = np.concatenate([above[None], rows[:-1]])
        left, corner = np.zeros_like(rows), np.zeros_like(rows)
        left[:, step:], corner[:, step:] = rows[:, :-step], up[:, :-step]
        kinds = np.full((len(rows), 1), _PAETH, np.uint8)
        yield np.concatenate([kinds, rows - _paeth(left, up, corner)], axis=1).tobytes()
        above = rows[-1]


def _paeth(left: NDArray[np.uint8], up: NDArray[np.uint8], corner: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The neighbour closest to left + up - corner, ties in the order left, up, corner (section 9.4)."""
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
