"""Where rows wait between two passes over a picture: in memory, or in files of a folder.

Files are read and written a strip at a time. Were they mapped instead, the pages touched would count as this
process's memory; as it is, the system keeps what it has room for and gives it back when others need it.
"""

from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Buffer(Protocol):
    """Rows of one shape and type, each written before it is read."""

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows `top` to `bottom`: (bottom - top, *shape)."""

    def write(self, top: int, rows: Tensor) -> None:
        """Put `rows` (n, *shape) at `top`."""

    def close(self) -> None:
        """Let go of it; a file stays."""


class MemoryBuffer:
    """A buffer in memory."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._rows = torch.empty(rows, *shape, dtype=dtype)

    def read(self, top: int, bottom: int) -> Tensor:
        """See `Buffer`."""
        return self._rows[top:bottom].clone()

    def write(self, top: int, rows: Tensor) -> None:
        """See `Buffer`."""
        self._rows[top : top + len(rows)] = rows

    def close(self) -> None:
        """See `Buffer`."""


class FileBuffer:
    """A buffer in a file, which is made where there is none, and may hold what an earlier process wrote."""

    def __init__(self, path: Path, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self._bytes = prod(shape) * dtype.itemsize
        path.touch(mode=0o600)
        # unbuffered, so that what was written is there even if this process is killed
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(rows * self._bytes)

    def read(self, top: int, bottom: int) -> Tensor:
        """See `Buffer`."""
        rows = torch.empty(bottom - top, *self._shape, dtype=self._dtype)
        view = _bytes_of(rows)
        self._file.seek(top * self._bytes)
        while view:
            # more than the system gives at once, or a file that somebody made shorter
            count = self._file.readinto(view)
            if not count:
                raise OSError(f"{self._file.name}: shorter than it was; remove the work folder")
            view = view[count:]
        return rows

    def write(self, top: int, rows: Tensor) -> None:
        """See `Buffer`."""
        view = _bytes_of(rows.to("cpu", self._dtype).contiguous())
        self._file.seek(top * self._bytes)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> None:
        """See `Buffer`."""
        self._file.close()


def _bytes_of(tensor: Tensor) -> memoryview:
    samples: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(samples)
