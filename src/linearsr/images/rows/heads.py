"""What stands before the pixels of PNG and JPEG: libvips adds EXIF tags and a resolution of its own, so we write it."""

import struct
from typing import BinaryIO

from linearsr.images.iptc import as_jpeg_segment
from linearsr.images.metadata import Metadata
from linearsr.images.png import SIGNATURE, chunk, metadata_chunks

_CHUNK_HEAD, _CHECKSUM = 8, 4
_PIXELS = {b"PLTE", b"tRNS", b"IDAT"}
_START, _JFIF, _EXIF = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"


def png_head(file: BinaryIO, metadata: Metadata, kept: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """All that is to come before the first chunk of pixels of an encoded PNG, at which `file` is left.

    `kept`: kind and data of chunks that go along as they are.
    """
    file.seek(len(SIGNATURE))
    chunks = [SIGNATURE]
    while True:
        length, kind = struct.unpack(">I4s", file.read(_CHUNK_HEAD))
        if kind in _PIXELS:
            file.seek(-_CHUNK_HEAD, 1)
            return b"".join(chunks)
        data = file.read(length)
        file.seek(_CHECKSUM, 1)
        if kind == b"IHDR":
            chunks += [chunk(kind, data), *metadata_chunks(**metadata, chunks=kept)]


def jpeg_head(file: BinaryIO, metadata: Metadata) -> bytes:
    """Start, JFIF and EXIF of a JPEG; `file`, an encoded one, is left behind its start and JFIF, if it has one."""
    file.seek(len(_START))
    marker, length = struct.unpack(">2sH", file.read(4))
    file.seek(len(_START) + (2 + length if marker == _JFIF else 0))
    # without a resolution: no unit, square pixels
    unit, across, down = (1, *map(round, metadata["dpi"])) if "dpi" in metadata else (0, 1, 1)
    segments = _segment(_JFIF, struct.pack(">5sHBHHBB", b"JFIF\0", 0x0101, unit, across, down, 0, 0))
    if "exif" in metadata:
        segments += _segment(_EXIF, metadata["exif"])
    if "iptc" in metadata:
        segments += as_jpeg_segment(metadata["iptc"])
    return _START + segments


def _segment(marker: bytes, data: bytes) -> bytes:
    return marker + struct.pack(">H", 2 + len(data)) + data
