"""Writing of TIFF with 8 or 16 bits and full EXIF; Pillow writes no 16-bit colour, nor EXIF if compressed."""

import shutil
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from linearsr.images.metadata import Metadata, keep_text, parse_exif

_DEFLATE, _HORIZONTAL_DIFFERENCE, _UNASSOCIATED_ALPHA, _INCH = 8, 2, 2, 2
_BYTE, _LONG, _UNDEFINED, _LONG8 = 1, 4, 7, 16
_HEADER, _BIG_HEADER = b"II\x2a\0\x08\0\0\0", b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0"
_BLOCKS: tuple[tuple[Literal["icc_profile", "xmp", "iptc"], int, int], ...] = (
    ("icc_profile", Base.InterColorProfile, _UNDEFINED),
    ("xmp", 700, _BYTE),
    ("iptc", 33723, _UNDEFINED),
)
_STRIP_BYTES, _COPIED_AT_ONCE = 2**20, 2**20
_LARGEST_FILE = 2**32 - 2**20


def write_tiff(
    file: BinaryIO,
    scratch: BinaryIO,
    read: Callable[[int, int], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    metadata: Metadata,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write samples of 8 or 16 bits, alpha last, losslessly compressed (TIFF 6.0, Deflate, predictor 2).

    A file over the 4 GB that TIFF can address becomes BigTIFF.

    Args:
        scratch: an empty file for the compressed strips, because the head must say where each one begins.
        read: (top, bottom) -> those rows of the samples.
        shape: of the samples, (H, W, 1 to 4).
    """
    height, width, channels = shape
    spread = list(range(channels))
    if channels == 2 and dtype.itemsize == 2:
        # as RGBA, because Pillow and programs built on it cannot read 16-bit grey with alpha from TIFF
        spread = [0, 0, 0, 1]
        metadata = metadata.copy()
        metadata.pop("icc_profile", None)
    rows = max(1, _STRIP_BYTES // (width * len(spread) * dtype.itemsize))
    sizes = []
    for top in range(0, height, rows):
        sizes.append(scratch.write(_compressed(read(top, min(top + rows, height))[..., spread])))
        on_progress(min(1.0, (top + rows) / height))
    file.write(_head((height, width, len(spread)), dtype.itemsize, rows, sizes, metadata))
    scratch.seek(0)
    shutil.copyfileobj(scratch, file, _COPIED_AT_ONCE)


def _compressed(rows: NDArray[Any]) -> bytes:
    """Compress a strip of rows (n, W, C)."""
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes())


def _head(
    shape: tuple[int, int, int], itemsize: int, rows: int, sizes: Sequence[int], metadata: Metadata
) -> bytes:
    """Return all of a file before its strips of `rows` rows and `sizes` bytes, which follow in order."""
    height, width, channels = shape
    big = sum(sizes) > _LARGEST_FILE
    directory: Any = ImageFileDirectory_v2(_BIG_HEADER if big else _HEADER)
    _add_exif(directory, metadata.get("exif"))
    directory[Base.ImageWidth], directory[Base.ImageLength] = width, height
    directory[Base.BitsPerSample] = (itemsize * 8,) * channels
    directory[Base.Compression] = _DEFLATE
    directory[Base.PhotometricInterpretation] = 2 if channels >= 3 else 1
    directory[Base.SamplesPerPixel] = channels
    directory[Base.RowsPerStrip] = rows
    directory[Base.PlanarConfiguration] = 1
    directory[Base.Predictor] = _HORIZONTAL_DIFFERENCE
    if channels in {2, 4}:
        directory[Base.ExtraSamples] = _UNASSOCIATED_ALPHA
    if "dpi" in metadata:
        directory[Base.XResolution], directory[Base.YResolution] = metadata["dpi"]
        directory[Base.ResolutionUnit] = _INCH
    for key, tag, kind in _BLOCKS:
        if key in metadata:
            directory.tagtype[tag] = kind
            directory[tag] = metadata[key]
    # offsets count from the end of the directory; Pillow adds its position
    directory.tagtype[Base.StripOffsets] = directory.tagtype[Base.StripByteCounts] = _LONG8 if big else _LONG
    directory[Base.StripOffsets] = tuple(accumulate(sizes[:-1], initial=0))
    directory[Base.StripByteCounts] = tuple(sizes)

    file = BytesIO()
    directory.save(file)
    return file.getvalue()


def _add_exif(directory: Any, block: bytes | None) -> None:
    exif = parse_exif(block)
    for tags in (exif, *(exif.get_ifd(tag) for tag in (IFD.Exif, IFD.GPSInfo) if tag in exif)):
        keep_text(tags)
    for tag, value in exif.items():
        directory[tag] = exif.get_ifd(tag) if tag in {IFD.Exif, IFD.GPSInfo} else value
