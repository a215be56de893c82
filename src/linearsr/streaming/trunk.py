"""The trunk over a large picture: the HR rows that it draws wait in a buffer."""

from collections.abc import Iterator

import torch
from torch import Tensor

from linearsr.models.rows import through
from linearsr.models.rrdb import RRDBNet
from linearsr.streaming.memory import TRUNK_STRIP_PIXELS
from linearsr.streaming.source import LRRows, strips
from linearsr.streaming.work import Report, Work


class StreamedTrunk:
    """The trunk's picture by rows.

    Args:
        strip: LR rows to work on at a time, at the most.
    """

    def __init__(self, trunk: RRDBNet, lr: LRRows, work: Work, strip: int) -> None:
        self._trunk, self._lr = trunk, lr
        self._strip = max(1, min(strip, TRUNK_STRIP_PIXELS // lr.width))
        self._device = trunk.conv_first.weight.device
        shape = (trunk.scale * lr.width, 3)
        self._drawn = work.buffer("drawn", trunk.scale * lr.height, shape, torch.float32)

    @property
    def cost(self) -> int:
        """In multiply-accumulates."""
        return self._trunk.macs_per_pixel * self._lr.height * self._lr.width

    def run(self, _: Tensor | None, report: Report) -> None:
        """The pass that draws all rows."""
        done = 0
        for out in through(self._trunk.rows(TRUNK_STRIP_PIXELS), self._lr_strips(report)):
            self._drawn.write(done, out[0].permute(1, 2, 0))
            done += out.shape[2]

    def read(self, top: int, bottom: int) -> Tensor:
        """HR rows, (1, 3, bottom - top, W) in about [-1, 1], in float32."""
        return self._drawn.read(top, bottom).to(self._device).permute(2, 0, 1)[None]

    def _lr_strips(self, report: Report) -> Iterator[Tensor]:
        for top, bottom in strips(self._lr.height, self._strip):
            yield self._lr.read(top, bottom)
            report(bottom / self._lr.height)
