"""PNG chunk by chunk (W3C PNG specification, third edition): reading of metadata, writing of 16-bit files.

Decoders refuse a file with a wrong checksum in its text, much text or a long ICC profile. They therefore get
only the chunks that the pixels need, and the others are read here. Pillow cannot write 16 bits per channel in
colour.
"""

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from linearsr.images.metadata import Metadata
from linearsr.images.texts import IPTC_KEYWORD, XMP_KEYWORD, as_raw_profile, raw_profile, records_in

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Number of channels -> colour type: grey, grey and alpha, RGB, RGBA (section 11.2.1).
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_PIXELS = {b"PLTE", b"tRNS", b"IDAT"}
_ROWS_AT_ONCE, _PAETH = 64, 4
_METRES_PER_INCH = 0.0254
_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_COLOUR = frozenset({b"cICP", b"gAMA", b"cHRM", b"sRGB", b"mDCV", b"cLLI", b"mDCv", b"cLLi"})
_ASIDE = _TEXT | _COLOUR | {b"iCCP"}
_LONGEST_UNPACKED, _COPIED_AT_ONCE = 2**26, 2**20


@dataclass
class PngFile:
    """The chunks of a PNG file.

    `pixels`: (kind, offset, bytes) of the whole chunks that a decoder needs; `aside`: (kind, data) of the
    metadata chunks; `damaged`: kinds of the ancillary chunks with a wrong checksum; `is_cut`: whether the end
    is missing.
    """

    pixels: list[tuple[bytes, int, int]] = field(default_factory=list)
    aside: list[tuple[bytes, bytes]] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    is_cut: bool = True


def scan(file: BinaryIO) -> PngFile:
    """List the chunks of a PNG file; this needs only the memory of its longest chunk of metadata."""
    found = PngFile()
    size = file.seek(0, os.SEEK_END)
    at = file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        whole = at + length + 12 <= size
        if not kind.isalpha():
            break
        if kind == b"IDAT" or kind[:1].isupper():
            found.pixels.append((kind, at, min(length + 12, size - at)))
        elif not whole:
            break
        else:
            _take(found, kind, at, file.read(length + 4))
        if kind == b"IEND" or not whole:
            found.is_cut = not whole
            break
        at = file.seek(at + length + 12)
    return found


def without_asides(file: BinaryIO, found: PngFile) -> bytes:
    """Return the file without metadata, with only the chunks that a decoder needs for the pixels."""
    target = BytesIO()
    copy_without_asides(file, found, target)
    return target.getvalue()


def copy_without_asides(file: BinaryIO, found: PngFile, target: BinaryIO) -> None:
    """Write the file of `without_asides` to `target`, using little memory."""
    target.write(SIGNATURE)
    for _, at, length in found.pixels:
        file.seek(at)
        for begin in range(0, length, _COPIED_AT_ONCE):
            target.write(file.read(min(_COPIED_AT_ONCE, length - begin)))


def all_but_image_data(file: BinaryIO, found: PngFile) -> BytesIO:
    """Return a file of all chunks that describe the pixels, wherever they stood, without the pixels."""
    kept = [chunk for chunk in found.pixels if chunk[0] not in {b"IDAT", b"fcTL", b"fdAT", b"IEND"}]
    head = without_asides(file, PngFile(kept))
    return BytesIO(head + struct.pack(">I4s", 0, b"IDAT"))


def header_only(data: bytes) -> BytesIO:
    """Return a file of signature and header only, in which nothing can stop a decoder before the pixels."""
    return BytesIO(data[:33] + struct.pack(">I4s", 0, b"IDAT"))


def described(found: PngFile) -> dict[Any, Any]:
    """Return the metadata by the keys of Pillow's `info`, and by "iptc", "png_texts" and "png_colours"."""
    info: dict[Any, Any] = {}
    texts = []
    for kind, data in found.aside:
        if kind == b"iCCP":
            packed = data.partition(b"\0")[2][1:]
            info["icc_profile"] = _unpacked(packed) or packed
        elif kind in _TEXT and (read := _KNOWN.get(data.partition(b"\0")[0])):
            name, understand = read
            if (block := understand(_text(kind, data))) is not None:
                info[name] = block
        elif kind in _TEXT:
            texts.append((kind, data))
    info["png_texts"] = tuple(texts)
    info["png_colours"] = tuple((kind, data) for kind, data in found.aside if kind in _COLOUR)
    return info


def _take(found: PngFile, kind: bytes, at: int, data_and_checksum: bytes) -> None:
    data, checksum = data_and_checksum[:-4], data_and_checksum[-4:]
    if zlib.crc32(kind + data) != int.from_bytes(checksum, "big"):
        found.damaged.append(kind)
    elif kind in _ASIDE:
        found.aside.append((kind, data))
    else:
        found.pixels.append((kind, at, len(data) + 12))


def _unpacked(packed: bytes) -> bytes:
    """Decompress as much as possible, up to 64 MiB."""
    unpacker, parts = zlib.decompressobj(), []
    # in small pieces, so that an error does not cost what was decompressed before it
    with suppress(zlib.error):
        left = _LONGEST_UNPACKED
        for at in range(0, len(packed), 256):
            parts.append(unpacker.decompress(packed[at : at + 256], left))
            left -= len(parts[-1])
            if left <= 0 or unpacker.eof:
                break
    return b"".join(parts)


def _text(kind: bytes, data: bytes) -> bytes:
    """Return the text of a chunk (section 11.3.3), decompressed if need be, up to 64 MiB."""
    rest = data.partition(b"\0")[2]
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _unpacked(rest[1:])
    is_packed, text = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    return _unpacked(text) if is_packed else text


def _profile(text: bytes) -> bytes | None:
    return raw_profile(text.decode("latin-1"))


def _exif(text: bytes) -> bytes | None:
    block = _profile(text)
    return None if block is None else b"Exif\0\0" + re.sub(b"^(Exif\0\0)+", b"", block)


def _records(text: bytes) -> bytes | None:
    return records_in(_profile(text) or b"")


_KNOWN: dict[bytes, tuple[str, Callable[[bytes], bytes | None]]] = {
    XMP_KEYWORD.encode(): ("xmp", lambda text: text),
    b"Raw profile type xmp": ("xmp", _profile),
    b"Raw profile type exif": ("exif", _exif),
    b"Raw profile type APP1": ("exif", _exif),
    b"Raw profile type iptc": ("iptc", _records),
    b"Raw profile type 8bim": ("iptc", _records),
}
"""Text chunks that hold blocks of other formats: keyword -> (key in `info`, function that decodes it)."""


def encode_png16(samples: NDArray[np.uint16], metadata: Metadata) -> bytes:
    """Encode 16-bit samples (H, W, 1 to 4), alpha last, as a PNG file."""
    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, chunk(b"IHDR", header), *_metadata_chunks(metadata)]
    compressor = zlib.compressobj(6, strategy=zlib.Z_FILTERED)
    parts += [chunk(b"IDAT", block) for rows in _filtered(samples) if (block := compressor.compress(rows))]
    parts += [chunk(b"IDAT", compressor.flush()), chunk(b"IEND", b"")]
    return b"".join(parts)


def png_head(file: BinaryIO, metadata: Metadata) -> bytes:
    """Return a new head with metadata for an encoded PNG, and leave `file` at its first chunk of pixels."""
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
    """Return a chunk: length, kind, data and checksum (section 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _filtered(samples: NDArray[np.uint16]) -> Iterator[bytes]:
    """Yield rows, each as a filter byte and the differences from Paeth's prediction (section 9.4)."""
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
    """Return the neighbour closest to left + up - corner; ties go to left, then up (section 9.4)."""
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, up, corner))
