"""Where a large picture's rows come from and go to."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


class RowReader(Protocol):
    """An LR picture of which any rows can be had."""

    height: int
    width: int

    def read(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Rows (bottom - top, width, 3) in [0, 1]: RGB, grey as RGB, what is transparent filled in."""


class RowWriter(Protocol):
    """Takes an HR picture from top to bottom."""

    def write(self, rows: NDArray[np.float32]) -> None:
        """The next rows, (n, W, 3) in [0, 1]."""


class ArrayReader:
    """A picture in memory, as a network sees it: (1, 3, h, w) in [-1, 1]."""

    def __init__(self, lr: Tensor) -> None:
        self._unit: NDArray[np.float32] = ((lr[0].permute(1, 2, 0).float() + 1) / 2).cpu().numpy()
        self.height, self.width = self._unit.shape[:2]

    def read(self, top: int, bottom: int) -> NDArray[np.float32]:
        """See `RowReader`."""
        return self._unit[top:bottom]


class ArrayWriter:
    """Collects rows into `array` (H, W, 3)."""

    def __init__(self, height: int, width: int) -> None:
        self.array: NDArray[np.float32] = np.empty((height, width, 3), dtype=np.float32)
        self._done = 0

    def write(self, rows: NDArray[np.float32]) -> None:
        """See `RowWriter`."""
        self.array[self._done : self._done + len(rows)] = rows
        self._done += len(rows)


class LRRows:
    """A reader's rows as the network sees them: (1, 3, n, w) in [-1, 1], padded as `pad_to_multiple` does it."""

    def __init__(self, reader: RowReader, multiple: int, device: torch.device) -> None:
        self.reader, self._device = reader, device
        self._down, self._right = -reader.height % multiple, -reader.width % multiple
        self._reflects = self._down < reader.height and self._right < reader.width
        self.height, self.width = reader.height + self._down, reader.width + self._right

    def read(self, top: int, bottom: int) -> Tensor:
        """Padded rows."""
        last = self.reader.height - 1
        wanted = np.arange(top, bottom)
        there = np.where(wanted <= last, wanted, 2 * last - wanted if self._reflects else last)
        first = int(there.min())
        rows = self.unpadded(first, int(there.max()) + 1)[:, :, there - first]
        return F.pad(rows, (0, self._right, 0, 0), mode="reflect" if self._reflects else "replicate")

    def unpadded(self, top: int, bottom: int) -> Tensor:
        """Rows of the picture itself."""
        rows = np.ascontiguousarray(self.reader.read(top, bottom), dtype=np.float32)
        return torch.from_numpy(rows).to(self._device).permute(2, 0, 1)[None] * 2 - 1


def strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of `rows` rows, the last one shorter."""
    for top in range(0, height, rows):
        yield top, min(height, top + rows)
