"""Samples of a picture in a plain file on disk, read and appended by rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STRIP_SAMPLES = 2**22


@dataclass(frozen=True)
class RowFile:
    """A file with a picture (height, width, channels) of `dtype`, row after row, without a header.

    Rows are read with plain reads, because the touched part of a memory map counts as memory of the process.
    """

    path: Path
    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """The size of a row in bytes."""
        return self.width * self.channels * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        """Whether all rows have been written."""
        return self.path.is_file() and self.path.stat().st_size == self.height * self.row_bytes

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """Read rows `top` to `bottom`, (bottom - top, width, channels). Raises OSError if one is missing."""
        shape = (bottom - top, self.width, self.channels)
        samples = np.fromfile(self.path, self.dtype, math.prod(shape), offset=top * self.row_bytes)
        if samples.size < math.prod(shape):
            raise OSError(f"{self.path}: shorter than it was")
        return samples.reshape(shape)

    def strips(self, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Return (top, bottom) of strips of about 4 million samples; each top is a multiple of `multiple`."""
        rows = max(1, _STRIP_SAMPLES // (self.width * self.channels * multiple)) * multiple
        return ((top, min(top + rows, self.height)) for top in range(0, self.height, rows))

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows (n, width, channels)."""
        with open(self.path, "ab") as file:
            file.write(np.ascontiguousarray(rows, self.dtype).data)

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Overwrite rows from `top` on."""
        with open(self.path, "r+b") as file:
            file.seek(top * self.row_bytes)
            file.write(np.ascontiguousarray(rows, self.dtype).data)

    def clear(self) -> None:
        """Empty the file, or create it."""
        self.path.write_bytes(b"")
