"""IPTC-IIM records - title, author, keywords - in the places where files keep them, all of Adobe's making."""

import re
import struct
from collections.abc import Mapping
from typing import Any

PNG_KEYWORD = "Raw profile type iptc"
_RECORDS = 0x0404  # the number of their image resource
_RESOURCE = b"8BIM"
_JPEG_NAME = b"Photoshop 3.0\0"
_TIFF_RECORDS, _TIFF_RESOURCES = 33723, 34377


def records_of(info: Mapping[Any, Any], tiff_tags: Mapping[int, Any]) -> bytes | None:
    """The records of an image by Pillow's `info` or its TIFF tags; None if it has none."""
    resources = info.get("photoshop")
    found: Any = resources.get(_RECORDS) if isinstance(resources, dict) else None
    found = found or tiff_tags.get(_TIFF_RECORDS)
    if isinstance(found, (tuple, int)):
        # some programs call them numbers of four bytes
        numbers = (found,) if isinstance(found, int) else found
        found = b"".join(struct.pack("<I", number) for number in numbers if isinstance(number, int))
    if not found and isinstance(packed := tiff_tags.get(_TIFF_RESOURCES), bytes):
        found = records_in(packed)
    return found.rstrip(b"\0") or None if isinstance(found, bytes) else None


def records_in(resources: bytes) -> bytes | None:
    """The records in a run of image resources, or the bytes themselves where they are records."""
    if not resources.startswith(_RESOURCE):
        return resources if resources[:1] == b"\x1c" else None
    at = 0
    while resources[at : at + 4] == _RESOURCE and at + 12 <= len(resources):
        number, name = struct.unpack_from(">HB", resources, at + 4)
        at += 6 + (name + 2) // 2 * 2
        (length,) = struct.unpack_from(">I", resources, at)
        if number == _RECORDS:
            return resources[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2
    return None


def as_resources(records: bytes) -> bytes:
    """The records as one image resource."""
    padding = bytes(len(records) % 2)
    return _RESOURCE + struct.pack(">HHI", _RECORDS, 0, len(records)) + records + padding


def as_jpeg_segment(records: bytes) -> bytes:
    """The segment APP13 of a JPEG. At most 65,505 bytes fit."""
    data = _JPEG_NAME + as_resources(records)
    return b"\xff\xed" + struct.pack(">H", 2 + len(data)) + data


def as_raw_profile(records: bytes) -> str:
    """The text of a PNG's "raw profile", a custom of ImageMagick that ExifTool shares."""
    data = as_resources(records)
    rows = [data[at : at + 36].hex() for at in range(0, len(data), 36)]
    return "\n".join(["", "iptc", f"{len(data):8}", *rows, ""])


def raw_profile(text: str) -> bytes | None:
    """The bytes of a PNG's "raw profile"; None if it is broken."""
    found = re.fullmatch(r"\s*\w+\s+(\d+)\s+([0-9a-fA-F\s]*)", text)
    try:
        return bytes.fromhex(found[2]) if found else None
    except ValueError:
        return None
