"""What the convolutional networks make of LR images at once, by rows: the trunk's picture, the stem's condition."""

from collections.abc import Iterator

import torch
from torch import Tensor

from linearsr.models.lr_stem import LRCondition, LRStem
from linearsr.models.rows import through, total_of
from linearsr.models.rrdb import RRDBNet
from linearsr.streaming.memory import TRUNK_STRIP_PIXELS
from linearsr.streaming.rows import LRRows, Report, Work


class TrunkRows:
    """The trunk's picture.

    Args:
        strip: LR rows to work on at a time, at the most; None: all.
    """

    def __init__(self, trunk: RRDBNet, lr: LRRows, batch: int, work: Work, strip: int | None) -> None:
        self._trunk, self._lr, self._work = trunk, lr, work
        self._strip = lr.height if strip is None else max(1, min(strip, TRUNK_STRIP_PIXELS // lr.width))
        self._rows = trunk.rows() if strip is None else trunk.rows(TRUNK_STRIP_PIXELS)
        shape = batch, 3, trunk.scale * lr.height, trunk.scale * lr.width
        self._drawn = work.buffer("drawn", shape, torch.float32)
        self.cost = trunk.macs_per_pixel * lr.height * lr.width

    def run(self) -> None:
        """The pass that draws all rows."""
        self._work.do("trunk", self.cost, self._draw)

    def read(self, top: int, bottom: int) -> Tensor:
        """HR rows, (B, 3, bottom - top, W) in about [-1, 1], in float32."""
        return self._drawn.read(top, bottom).to(self._trunk.conv_first.weight.device)

    def _draw(self, report: Report) -> None:
        done = 0
        for out in through(self._rows, reported(self._lr, self._strip, report)):
            self._drawn.write(done, out)
            done += out.shape[2]


class StemRows:
    """The stem's condition, by rows of the latent grid; what is kept of it is finished where it is read.

    Args:
        strip: LR rows to work on at a time; None: all.
    """

    def __init__(self, stem: LRStem, lr: LRRows, batch: int, work: Work, strip: int | None) -> None:
        self._stem, self._lr, self._work, self._strip = stem, lr, work, strip or lr.height
        first = next(stem.parameters())
        self._device = first.device
        height, width = lr.height // stem.step, lr.width // stem.step
        features, estimate = stem.kept_channels
        self._features = work.buffer("features", (batch, features, height, width), first.dtype)
        self._estimate = work.buffer("estimate", (batch, estimate, height, width), first.dtype)
        self.cost = sum(p.numel() for p in stem.parameters()) * lr.height * lr.width

    def run(self) -> None:
        """What every block must know of the whole image; then all layers."""
        total = self._work.do("stem", 0, self._survey)
        self._work.do("stem", self.cost, lambda report: self._keep(total, report))

    def features(self, top: int, bottom: int) -> Tensor:
        """The condition's features for rows of the latent grid, (B, C, bottom - top, w)."""
        kept = self._stem.multiple_of // self._stem.step
        return self._stem.features(self._features.read(top * kept, bottom * kept).to(self._device))

    def drop_features(self) -> None:
        """Let go of the features, when the walk is over."""
        self._work.drop("features")

    def condition(self, top: int, bottom: int) -> LRCondition:
        """Prediction and deviation for rows of the latent grid, if the stem makes any."""
        if not self._stem.margin:
            return LRCondition(torch.empty(0))
        first, last = top * self._stem.multiple_of, bottom * self._stem.multiple_of
        start, end = max(0, first - self._stem.margin), min(self._lr.height, last + self._stem.margin)
        kept = self._estimate.read(start, end).to(self._device)
        made = self._stem.estimate(self._lr.read(start, end), kept)
        assert made.prediction is not None
        assert made.deviation is not None
        scale = made.prediction.shape[2] // (end - start)
        rows = slice(scale * (first - start), scale * (last - start))
        return LRCondition(made.features, made.prediction[:, :, rows], made.deviation[:, :, rows])

    def _survey(self, report: Report) -> Tensor | None:
        part = self._stem.survey()
        return None if part is None else total_of(part, reported(self._lr, self._strip, report))

    def _keep(self, total: Tensor | None, report: Report) -> None:
        layers = self._stem.rows(total, (self._lr.height, self._lr.width))
        done = 0
        for kept in through(layers, reported(self._lr, self._strip, report)):
            features, estimate = torch.split(kept, list(self._stem.kept_channels), dim=1)
            self._features.write(done, features)
            self._estimate.write(done, estimate)
            done += kept.shape[2]


def reported(lr: LRRows, strip: int, report: Report) -> Iterator[Tensor]:
    """Strips of padded LR rows; each is reported when the next is asked for."""
    for bottom, rows in lr.strips(strip):
        yield rows
        report(bottom / lr.height)
