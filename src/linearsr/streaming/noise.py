"""The noise of a large latent, number for number that of `initial_noise`, without holding it whole."""

import torch
from torch import Tensor

from linearsr.streaming.buffers import Buffer
from linearsr.streaming.work import Report

_PIECE = 2**20
_BLOCK = 16
"""torch makes normal numbers in blocks of so many; a last part of a block is made from the end backwards."""


class NoiseRows:
    """Noise (C, h, w) in a buffer of single numbers, as `initial_noise` draws them: channel by channel.

    Args:
        buffer: of C * h * w numbers.
        grid: C, h, w.
    """

    def __init__(self, buffer: Buffer, grid: tuple[int, int, int]) -> None:
        self._buffer, self._grid = buffer, grid

    def draw(self, seed: int, report: Report) -> None:
        """Fill the buffer."""
        channels, height, width = self._grid
        count = channels * height * width
        generator = torch.Generator().manual_seed(seed)
        done = 0
        while done < count:
            left = count - done
            # whole blocks; the last piece takes the broken one with a whole one before it
            size = _PIECE if left >= _PIECE + _BLOCK else left
            self._buffer.write(done, torch.empty(size).normal_(generator=generator))
            done += size
            report(done / count)

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows (1, C, bottom - top, w)."""
        channels, height, width = self._grid
        planes = [
            self._buffer.read((c * height + top) * width, (c * height + bottom) * width)
            for c in range(channels)
        ]
        return torch.stack(planes).view(1, channels, bottom - top, width)
