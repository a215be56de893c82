"""Writing of a result by rows, which are gathered in a file of rows and then encoded."""

import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from linearsr.images.metadata import Metadata
from linearsr.images.picture import FloatArray, quantise, warn_of
from linearsr.images.png import png_head
from linearsr.images.resize import resize_rows
from linearsr.images.rows.reader import RowReader
from linearsr.images.rows.row_file import RowFile
from linearsr.images.rows.vips import as_image, save, vips
from linearsr.images.texts import as_jpeg_segment
from linearsr.images.tiff import write_tiff
from linearsr.images.writing import (
    check_format,
    check_quality,
    check_sides,
    check_target,
    encode_lossy,
    file_metadata,
    on_white,
    write_error,
)
from linearsr.runtime.files import put

_KEEP_XMP, _KEEP_PROFILE = 2, 8
# takes a third of the time of zlib's defaults; files are 3% larger
_PNG_OPTIONS = {"compression": 4, "filter": "paeth"}
_JPEG_OPTIONS = {"subsample_mode": "off", "optimize_coding": True, "keep": _KEEP_XMP | _KEEP_PROFILE}
_COPIED_AT_ONCE = 2**20
_START, _JFIF, _EXIF = b"\xff\xd8", b"\xff\xe0", b"\xff\xe1"
Progress = Callable[[float], None]
Read = Callable[[int, int], FloatArray]


class RowWriter:
    """A writer that takes a result by rows and adds the alpha and metadata of its source image.

    PNG and TIFF have the bits per channel of the source; a TIFF over 4 GB becomes BigTIFF. For JPEG,
    transparent pictures are flattened on white, with a warning. Grey stays grey. WebP and AVIF are encoded in
    one piece.

    Args:
        path: a file of one of the types that `encode_image` writes.
        size: (height, width) of the result.
        source: the image that the result is made from.
        folder: folder for intermediate rows, on the same disk as `path`.
        overwrite: whether a file at `path` may be replaced.
        quality: quality of JPEG, WebP and AVIF, 1 to 100.

    Raises:
        ImageError: one line: the file exists, or its format cannot hold such a picture.
        ValueError: the quality is out of range.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        source: RowReader,
        folder: Path,
        overwrite: bool = False,
        quality: int = 95,
    ) -> None:
        check_quality(quality)
        check_target(path, overwrite)
        self._format = check_format(path)
        check_sides(path, self._format, (size[1], size[0]))
        self._path, self._overwrite, self._quality = path, overwrite, quality
        self._source, self._folder = source, folder
        self._keeps_alpha = source.has_alpha and self._format != "JPEG"
        self._bits: Literal[8, 16] = source.bits if self._format in {"PNG", "TIFF"} else 8
        channels = (1 if source.is_grey else 3) + self._keeps_alpha
        dtype = np.dtype(np.uint16 if self._bits == 16 else np.uint8)
        self._rows = RowFile(folder / "output.rows", *size, channels, dtype)
        self._alpha_source: tuple[Read, tuple[int, int]] = source.read_alpha, (source.height, source.width)
        self._done = 0

    def use_alpha(self, read: Read, size: tuple[int, int]) -> None:
        """Replace the source's alpha: `read` (top, bottom) gives rows of alpha of `size` (height, width)."""
        self._alpha_source = read, size

    @property
    def rows_bytes(self) -> int:
        """Disk space in bytes that all rows take until they are encoded."""
        return self._rows.height * self._rows.row_bytes

    @property
    def file_bytes(self) -> int:
        """Disk space in bytes that encoding takes at most: for the file, and for a copy of its pixels."""
        return 2 * self.rows_bytes

    def write(self, rows: FloatArray) -> None:
        """Write the next rows (n, W, 3) in [0, 1], in order. Raises ImageError if the disk is full."""
        top, bottom = self._done, self._done + len(rows)
        colour = rows.mean(axis=2, keepdims=True) if self._source.is_grey else rows
        alpha = self._alpha(top, bottom) if self._source.has_alpha else None
        if alpha is not None and not self._keeps_alpha:
            colour, alpha = on_white(colour, alpha), None
        try:
            if top == 0:
                self._rows.clear()
            self._rows.append(quantise(colour, alpha, self._bits))
        except OSError as error:
            raise write_error(self._rows.path, error) from error
        self._done = bottom

    def close(self, tags: Sequence[str] = (), on_progress: Progress = lambda share: None) -> None:
        """Encode the rows to the file, all of it or nothing; `on_progress` gets fractions from 0 to 1.

        If the folder already holds all rows, from an earlier run, they need not be written again.

        Raises:
            ImageError: the file cannot be written.
            ValueError: rows are missing.
        """
        if not self._rows.is_whole:
            raise ValueError(f"{self._path}: row {self._done} and what follows was not written")
        size = self._rows.width, self._rows.height
        channels = 1 if self._source.is_grey else 3
        metadata = file_metadata(self._source.notes, self._path, self._format, size, tags, channels)
        if self._format == "JPEG" and self._source.has_alpha:
            warn_of(self._path, "JPEG has no transparency; flattened on white")
        encoded = self._folder / "encoded"
        on_progress(0)
        try:
            if self._format == "TIFF":
                rows = self._rows
                shape = rows.height, rows.width, rows.channels
                with open(encoded, "wb") as file, TemporaryFile(dir=self._folder) as scratch:
                    write_tiff(file, scratch, rows.read, shape, rows.dtype, metadata, on_progress)
            elif self._format in {"WEBP", "AVIF"}:
                samples = self._rows.read(0, self._rows.height)
                encoded.write_bytes(encode_lossy(samples, self._format, self._quality, metadata))
            else:
                self._encode(encoded, metadata, on_progress)
            put(encoded, self._path, self._overwrite)
        except OSError as error:
            raise write_error(self._path, error) from error

    def _alpha(self, top: int, bottom: int) -> FloatArray:
        source, old = self._alpha_source

        def read(first: int, last: int) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(source(first, last)))[None, None]

        new = self._rows.height, self._rows.width
        alpha: FloatArray = resize_rows(read, old, new, top, bottom, "bicubic")[0, 0].clamp(0, 1).numpy()
        return alpha

    def _encode(self, target: Path, metadata: Metadata, on_progress: Progress) -> None:
        """Encode the rows as PNG or JPEG."""
        image = as_image(self._rows).copy()
        pixels = target.with_name("pixels")
        if self._format == "PNG":
            save(image, "pngsave", pixels, on_progress, keep=0, **_PNG_OPTIONS)
        else:
            blocks = {"icc-profile-data": metadata.get("icc_profile"), "xmp-data": metadata.get("xmp")}
            for field, block in blocks.items():
                if block:
                    image.set_type(vips().GValue.blob_type, field, block)
            save(image, "jpegsave", pixels, on_progress, Q=self._quality, **_JPEG_OPTIONS)
        with open(pixels, "rb") as source, open(target, "wb") as file:
            file.write((png_head if self._format == "PNG" else _jpeg_head)(source, metadata))
            shutil.copyfileobj(source, file, _COPIED_AT_ONCE)
        pixels.unlink()


def _jpeg_head(file: BinaryIO, metadata: Metadata) -> bytes:
    """Return start, JFIF, EXIF and IPTC for an encoded JPEG; `file` is left after its own start and JFIF.

    libvips would write EXIF tags and a resolution of its own.
    """
    file.seek(len(_START))
    marker, length = struct.unpack(">2sH", file.read(4))
    file.seek(len(_START) + (2 + length if marker == _JFIF else 0))
    # without a resolution: no unit, square pixels
    unit, across, down = (1, *map(round, metadata["dpi"])) if "dpi" in metadata else (0, 1, 1)
    head = _START + _segment(_JFIF, struct.pack(">5sHBHHBB", b"JFIF\0", 0x0101, unit, across, down, 0, 0))
    if "exif" in metadata:
        head += _segment(_EXIF, metadata["exif"])
    return head + as_jpeg_segment(metadata["iptc"]) if "iptc" in metadata else head


def _segment(marker: bytes, data: bytes) -> bytes:
    return marker + struct.pack(">H", 2 + len(data)) + data
