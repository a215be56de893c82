"""Is a JPEG 2000 file whole? Its decoder fills what is missing without a word (ISO 15444-1, annexes A and I)."""

import struct

_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
_END_OF_CODESTREAM = b"\xff\xd9"


def jpeg2000_is_whole(data: bytes) -> bool:
    """Say whether the codestream, bare or in a JP2 file, ends with its end marker."""
    if data.startswith(_START_OF_CODESTREAM):
        return data.rstrip(b"\0").endswith(_END_OF_CODESTREAM)
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
        # A length of 0 means up to the end of the file.
        end = at + length if length else len(data)
        if kind == b"jp2c":
            return end <= len(data) and data[at:end].endswith(_END_OF_CODESTREAM)
        if end < at + 8:
            return False
        at = end
    return False
