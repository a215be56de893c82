"""Reading of truncated files, or those with damaged pixels, as far as a browser would show them."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linearsr.images.files import kind_of
from linearsr.images.modern import boxed_length
from linearsr.images.samples import Samples

_JPEG_END, _JPEG_GREY = b"\xff\xd9", np.float32(128 / 255)
_JPEG_HEADER = re.compile(b"\xff[\xc4\xda\xdb\xdd]")
_J2K_START, _J2K_TILE = b"\xff\x4f\xff\x51", b"\xff\x90\x00\x0a"
_DROPPED, _LONGEST_FILL = 16, 16
# repeated as bytes, it makes floats of 16 and 32 bits that are within [0, 1]
_LEVEL = 59
# pairs of levels for the missing bytes, one for each of two decodings
_FILLINGS = ((0, 255), (0, 0), (255, 255))
# numbers of last bytes to give up, one after the other, if no filling after them can be decoded
_GIVEN_UP = (0, 32, 256)
Decode = Callable[[bytes, int | None], tuple[Image.Image, Samples]]
"""(file, level of pixels that the decoder does not write, or None to raise an error) -> image, samples."""


def read_what_is_there(data: bytes, decode: Decode) -> tuple[Image.Image, Samples, str]:
    """Read as much as possible of a truncated or damaged file.

    Returns:
        The image, its samples, which are 0 where pixels are missing, and what is missing, in words.

    Raises:
        ValueError: no pixels are there; also whatever `decode` raises.
    """
    if kind_of(data) == "jpeg":
        try:
            im, samples = decode(data + _JPEG_END, None)
        except OSError:
            # the file ends within the header of a scan: decode what precedes it
            *_, header = _JPEG_HEADER.finditer(data)
            im, samples = decode(data[: header.start()] + _JPEG_END, None)
        # missing rows are grey, so the last row of another colour is the last that is there
        there = np.abs(samples.colour - _JPEG_GREY).max(axis=(1, 2)) >= 0.5 / 255
        there[: np.flatnonzero(there)[-1] + 1 if there.any() else 0] = True
        return im, samples, _missing(there[:, None])
    if (whole := _whole_jpeg2000(data)) is not None:
        return *decode(whole, None), "is truncated: its end is missing, and fine detail with it"
    # others: decode twice with different fillings; pixels that differ are missing
    if kind_of(data) in {"webp", "boxed"}:
        im, samples, other = _decoded_twice(data, decode)
        same = np.logical_and.accumulate((samples.colour == other.colour).all(axis=(1, 2)))
        there = np.broadcast_to(same[:, None], samples.colour.shape[:2])
    else:
        (_, other), (im, samples) = (decode(data, level) for level in (_LEVEL, 0))
        there = (samples.colour == other.colour).all(axis=2)
    samples = replace(samples, colour=np.where(there[..., None], samples.colour, np.float32(0)))
    return im, samples, _missing(there)


def _decoded_twice(data: bytes, decode: Decode) -> tuple[Image.Image, Samples, Samples]:
    """Return image and samples of a WebP, HEIC or AVIF file, and its samples without its last bytes.

    Missing bytes are filled in. Rows from the first that differs on depend on the last bytes or the filling.
    """
    problem: Exception = ValueError()
    tries = product(_GIVEN_UP, _FILLINGS) if kind_of(data) == "boxed" else [(0, (0, 0))]
    for given_up, (level, other_level) in tries:
        there = data[: len(data) - given_up]
        try:
            im, samples = decode(filled_up(there, level), None)
            return im, samples, decode(filled_up(there[:-_DROPPED], other_level), None)[1]
        except Exception as error:  # the decoder refuses this filling
            problem = error
    raise problem


def keep_what_is_read(im: Image.Image, level: int) -> None:
    """Make `im.load` leave pixels that the decoder does not reach at a level, instead of raising an error."""
    load = im.load
    if im.format == "GIF":
        # otherwise its missing pixels would be transparent
        im._frame_transparency = None  # type: ignore[attr-defined]
    filling = _other_index(im) if level and im.mode == "P" else level / 255 if im.mode == "F" else level
    im.im = Image.new(im.mode, im.size, filling).im

    def load_some() -> object:
        try:
            return load()
        except Exception:
            # all that can be decoded has been decoded
            im.tile = []  # type: ignore[attr-defined]
            return load()

    im.load = load_some  # type: ignore[method-assign,assignment]


def _missing(there: NDArray[np.bool_]) -> str:
    """Describe what is missing, given which pixels (H, W) are there. Raises ValueError if none is there."""
    if not there.any():
        raise ValueError("none of its pixels is there")
    rows = np.asarray(there.all(axis=1))
    count = len(rows) - int(rows.sum())
    if not count:
        return "is truncated: its end is missing, but all of its rows are there"
    for which, others in (("last", rows[:-count]), ("first", rows[count:])):
        if len(others) and others.all():
            return f"is truncated: the {which} {count} of its {len(rows)} rows are missing and left blank"
    return f"is truncated: {1 - there.mean():.0%} of its pixels are missing and left blank"


def is_cut(data: bytes) -> bool:
    """Return whether a JPEG 2000, HEIC or AVIF file is truncated, which decoders do not always report."""
    return (kind_of(data) == "boxed" and boxed_length(data) > len(data)) or _whole_jpeg2000(data) not in {
        None,
        data,
    }


def _other_index(im: Image.Image) -> int:
    """Return the index of a colour in the palette that differs from the first one."""
    assert im.palette is not None
    colours = np.frombuffer(bytes(im.palette.palette), np.uint8)
    colours = colours.reshape(-1, len(im.palette.rawmode or im.palette.mode))
    return int((colours != colours[0]).any(axis=1).argmax())


def _whole_jpeg2000(data: bytes) -> bytes | None:
    """Return a JPEG 2000 file with empty packets for missing ones (ISO 15444-1, A.4.2); None for others."""
    if kind_of(data) != "jpeg2000":
        return None
    begin = data.find(_J2K_START)
    at = data.find(_J2K_TILE, begin)
    if begin < 0 or at < 0:
        raise ValueError("its pixels are missing")
    while data[at : at + 4] == _J2K_TILE:
        length = int.from_bytes(data[at + 6 : at + 10], "big")
        # a length of 0 means: up to the end of the file
        at += length if length >= len(_J2K_TILE) else len(data)
    if data[at : at + 2] == _JPEG_END or (at >= len(data) and data.endswith(_JPEG_END)):
        return data
    box = max(0, data.rfind(b"jp2c", 0, begin) - 4)
    # a box of length 0 extends to the end of the file
    head = data[:box] + bytes(4) + data[box + 4 : begin] if box else data[:begin]
    return head + _filled(data[begin:at], at - begin) + _JPEG_END


def filled_up(data: bytes, level: int = 0) -> bytes:
    """Append bytes of value `level` to a WebP, HEIC or AVIF file for what is missing.

    Raises ValueError if so much is missing that no row can be decoded.
    """
    if kind_of(data) == "boxed":
        return _filled(data, boxed_length(data), level)
    length = int.from_bytes(data[4:8], "little") + 8
    frame = data.find(b"VP8 ", 12, 4096)
    if frame > 0 and len(data) - frame - 18 < int.from_bytes(data[frame + 8 : frame + 11], "little") >> 5:
        raise ValueError("none of its rows is there")
    return _filled(data, length, level)


def _filled(data: bytes, length: int, level: int = 0) -> bytes:
    if length > _LONGEST_FILL * len(data):
        raise ValueError("nearly all of it is missing")
    return data.ljust(length, bytes([level]))
