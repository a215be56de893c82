"""Where rows of images come from and go to."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

ReadRows = Callable[[int, int], Tensor]
"""(top, bottom) -> rows (B, C, bottom - top, w)"""


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


class LRRows:
    """LR images as the networks see them: rows (B, 3, n, w) in [-1, 1], padded as `pad_to_multiple` does it.

    `own_size`: (height, width) of the images; `height` and `width` are padded.

    Args:
        read: rows of the images.
        multiple: of which both padded sides are one.
        device: where the networks are.
    """

    def __init__(
        self, read: ReadRows, own_size: tuple[int, int], multiple: int, device: torch.device
    ) -> None:
        self._read, self.own_size, self._device = read, own_size, device
        down, self._right = (-side % multiple for side in own_size)
        self.height, self.width = own_size[0] + down, own_size[1] + self._right
        self._mode = "reflect" if down < own_size[0] and self._right < own_size[1] else "replicate"

    def read(self, top: int, bottom: int) -> Tensor:
        """Padded rows."""
        height = self.own_size[0]
        below = max(0, bottom - height)
        # the rows that are mirrored below
        first = max(0, min(top, height - 1 - below)) if below else top
        rows = self.unpadded(first, min(bottom, height))
        if not below and not self._right:
            return rows
        return F.pad(rows, (0, self._right, 0, below), mode=self._mode)[:, :, top - first :]

    def unpadded(self, top: int, bottom: int) -> Tensor:
        """Rows of the images themselves."""
        return self._read(top, bottom).to(self._device)

    def strips(self, rows: int) -> Iterator[tuple[int, Tensor]]:
        """(bottom, padded rows) of strips of so many rows."""
        for top, bottom in strips(self.height, rows):
            yield bottom, self.read(top, bottom)


def rows_of(reader: RowReader) -> ReadRows:
    """A reader's rows as (1, 3, n, w) in [-1, 1]."""

    def read(top: int, bottom: int) -> Tensor:
        rows = np.ascontiguousarray(reader.read(top, bottom), dtype=np.float32)
        return torch.from_numpy(rows).permute(2, 0, 1)[None] * 2 - 1

    return read


def strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of `rows` rows, the last one shorter."""
    for top in range(0, height, rows):
        yield top, min(height, top + rows)
