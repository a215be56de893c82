"""HEIC, AVIF, JPEG XL, JPEG 2000: headers, and the metadata, bits and frames that Pillow's plugins lose."""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from linearsr.images.picture import FloatArray, warn_of
from linearsr.images.png_colour import chunks_of_nclx
from linearsr.images.samples import ForeignPixels, Samples, checked_float, split_alpha, unmultiplied

_JXL_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIDE, _PREVIEW_SIDE = ((9, 1), (13, 1), (18, 1), (30, 1)), ((6, 1), (8, 65), (10, 321), (12, 1345))
_BITS, _FLOAT_BITS = ((0, 8), (0, 10), (0, 12), (6, 1)), ((0, 32), (0, 16), (0, 24), (6, 1))
_TICKS, _TICK_LENGTH = ((0, 100), (0, 1000), (10, 1), (30, 1)), ((0, 1), (0, 1001), (8, 1), (10, 1))
_LOOPS = ((0, 0), (3, 0), (16, 0), (32, 0))
_BARE_JXL = b"\xff\x0a"
_LARGE_BOXES = frozenset({b"mdat", b"meta", b"moov"})
_PACKED = {b"Exif": ("exif", "EXIF data"), b"xml ": ("xmp", "XMP packet")}
_LONGEST_UNPACKED = 2**24
_AV1_BITS = {0x40: 10, 0x60: 12}
_AV1_DEPTH = re.compile(rb"av1C\x81.(.)", re.DOTALL)


@dataclass(frozen=True)
class JxlHeader:
    """The header of a JPEG XL file.

    `size`: (width, height) as stored; `orientation`: as in EXIF, but already applied by decoders.
    """

    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8
    is_animated: bool = False


class _Bits:
    """A reader of the fields of a JPEG XL header (ISO 18181-1, annexes B and D), lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._bits = int.from_bytes(data, "little")

    def take(self, count: int = 1) -> int:
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        return value

    def choose(self, forms: tuple[tuple[int, int], ...]) -> int:
        """Read a number that is stored in one of four forms (bits, offset)."""
        count, offset = forms[self.take(2)]
        return offset + self.take(count)

    def size(self, eighths: tuple[tuple[int, int], ...] | None, sides: tuple[tuple[int, int], ...]) -> Any:
        """Read (width, height). Small ones are in units of 8; `eighths`: their forms, None for 5 bits."""
        is_small = self.take()

        def side() -> int:
            if not is_small:
                return self.choose(sides)
            return 8 * (self.take(5) + 1 if eighths is None else self.choose(eighths))

        height = side()
        across, down = _JXL_RATIOS[self.take(3)]
        return (height * across // down if across else side()), height


def jxl_header(data: bytes) -> JxlHeader:
    """Read the header in the first MiB of a JPEG XL file, because the plugin decodes the whole file first."""
    at = next((data.find(box) + gap for box, gap in ((b"jxlc", 4), (b"jxlp", 8)) if box in data), 0)
    bits = _Bits(data[at + 2 : at + 80])
    size = bits.size(None, _SIDE)
    if bits.take():
        return JxlHeader(size)
    orientation, is_animated = 1, False
    if bits.take():
        orientation = bits.take(3) + 1
        if bits.take():
            bits.size(None, _SIDE)
        if bits.take():
            bits.size(((0, 16), (0, 32), (5, 1), (9, 33)), _PREVIEW_SIDE)
        is_animated = bool(bits.take())
        if is_animated:
            for forms in (_TICKS, _TICK_LENGTH, _LOOPS):
                bits.choose(forms)
            bits.take()
    return JxlHeader(size, orientation, bits.choose(_FLOAT_BITS if bits.take() else _BITS), is_animated)


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, begin, end) of the boxes in a file (ISO 14496-12, 4.2); the last end may be beyond it."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        end = at + length if length else len(data)
        if end < at + head:
            return
        yield kind, at + head, end
        at = end


def boxed_length(data: bytes) -> int:
    """Return the length of a complete file with these boxes; what follows the large ones does not count."""
    return max((end for kind, _, end in boxes(data) if kind in _LARGE_BOXES), default=0)


def complete_notes(name: str, im: Image.Image, data: bytes) -> None:
    """Add to an opened file what its plugin loses: colours and EXIF; XMP and packed EXIF of JPEG XL."""
    if im.format in {"AVIF", "HEIF"} and not im.info.get("icc_profile"):
        im.info["png_colours"] = chunks_of_nclx(data)
    if im.format == "AVIF":
        _restore_exif(im)
    if im.format == "JXL":
        _complete_jxl(name, im, data)


def _complete_jxl(name: str, im: Image.Image, data: bytes) -> None:
    for kind, begin, end in boxes(data) if not data.startswith(_BARE_JXL) else ():
        content = data[begin:end]
        if kind == b"xml ":
            im.info["xmp"] = content
        elif kind == b"brob" and content[:4] in _PACKED:
            key, words = _PACKED[content[:4]]
            if (codecs := _imagecodecs()) is None:
                warn_of(name, f"its {words} is packed and is dropped; pip install 'linearsr[large]' keeps it")
                continue
            block = codecs.brotli_decode(content[4:], out=_LONGEST_UNPACKED)
            # four bytes, the offset of EXIF, come before it; some programs omit them
            im.info[key] = block[4:] if key == "exif" and block[:2] not in {b"II", b"MM"} else block
    # the decoder has already applied the orientation
    if jxl_header(data).orientation != 1:
        with suppress(Exception):  # broken EXIF is reported where it is read
            im.getexif().pop(Base.Orientation, None)


def _restore_exif(im: Image.Image) -> None:
    """Restore the EXIF of an opened AVIF, whose text Pillow spoils; keep the orientation of the pixels."""
    block = im._decoder.get_info()[4]  # type: ignore[attr-defined]
    if block and block != im.info["exif"]:
        orientation = im.getexif()[Base.Orientation]
        im.info["exif"] = block
        im.getexif().load(block)
        im.getexif()[Base.Orientation] = orientation


def deep_modern(name: str, im: Image.Image, data: bytes) -> Samples | None:
    """Return the samples of a file with more than 8 bits, or of the first frame of an animated JPEG XL.

    Returns None for other files and, with a warning, if bits or frames are lost without the extra `large`.
    """
    if im.format == "HEIF":
        return _deep_heif(im, data) if im.info.get("bit_depth", 8) > 8 else None
    is_animated = im.format == "JXL" and jxl_header(data).is_animated
    if im.format == "JXL":
        depth = jxl_header(data).bits
    else:
        # from a byte of the AV1 configuration (AV1 in ISO media, section 2.3)
        flags = (found[0] & 0x60 for found in _AV1_DEPTH.findall(data))
        depth = max((_AV1_BITS.get(flag, 8) for flag in flags), default=8)
    if depth <= 8 and not is_animated:
        return None
    codecs = _imagecodecs()
    if codecs is None:
        lost = "its last frame is used" if is_animated else f"of its {depth} bits per channel 8 are used"
        warn_of(name, f"{lost}; pip install 'linearsr[large]' to read it in full")
        return None
    if is_animated:
        warn_of(name, "has several frames or pages; only the first is used")
    array = np.atleast_3d((codecs.jpegxl_decode if im.format == "JXL" else codecs.avif_decode)(data, index=0))
    unit = checked_float(array) if array.dtype.kind == "f" else _unit(array, depth)
    return split_alpha(unit, 16 if depth > 8 else 8, has_alpha=unit.shape[2] in {2, 4})


def deep_jpeg2000(im: Image.Image, data: bytes) -> Samples | None:
    """Return the samples of a file with more than 8 bits, whose white Pillow makes black; None for others.

    Raises ForeignPixels if the colours are not RGB, or if colour needs the extra `large` and it is missing.
    """
    # from the size marker (ISO 15444-1, A.5.1)
    depth = (data[data.find(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1
    if depth <= 8 or im.mode not in {"I;16", "LA", "RGB", "RGBA"}:
        return None
    codecs = _imagecodecs()
    if codecs is None:
        if im.mode == "I;16":
            return None
        raise ForeignPixels(f"has {depth} bits per channel; pip install 'linearsr[large]' reads it")
    unit = _unit(np.atleast_3d(codecs.jpeg2k_decode(data)), depth)
    known = np.atleast_3d(np.asarray(im))
    known = known / np.float32(np.iinfo(known.dtype).max)
    if unit.shape != known.shape or ((np.abs(unit - known) > 2 / 255) & (known > 0)).any():
        raise ForeignPixels(f"has {depth} bits per channel that are not RGB; save it as PNG or TIFF")
    return split_alpha(unit, 16, has_alpha=unit.shape[2] in {2, 4})


def _deep_heif(im: Image.Image, data: bytes) -> Samples:
    file = import_module("pillow_heif").open_heif(BytesIO(data), convert_hdr_to_8bit=False)
    image = file[file.primary_index]
    # the decoder fills up to 16 bits with zeros; without them white is the largest value
    depth = im.info["bit_depth"]
    array = np.asarray(image) >> (16 - depth)
    unit = _unit(np.atleast_3d(array), depth)
    if image.premultiplied_alpha:
        unit = unmultiplied(unit)
    return split_alpha(unit, 16, has_alpha=unit.shape[2] in {2, 4})


def _unit(array: NDArray[Any], depth: int) -> FloatArray:
    return array.astype(np.float32) / np.float32(2**depth - 1)


def _imagecodecs() -> Any:
    try:
        return import_module("imagecodecs")
    except ImportError:
        return None
