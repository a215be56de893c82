"""The LR stems without gradients over strips of rows, with what they make of the whole image.

Shape legend: C channels, n rows of an image of the width w, which are a tensor (1, C, n, w).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.block_rows import residual_block_rows
from linearsr.models.lr_stem import LRCondition, LRStem, PredictiveStem, ResidualBlock, StridedStem
from linearsr.models.rows import Chain, Convolution, Joined, PerPixel, Rows, Window, residual

_DETAIL_REACH = 2
_RESAMPLING_REACH = 4


class StemRows(Protocol):
    """A stem by rows. `layers` make of LR rows what is kept, channels by channels; from that the rest is finished."""

    channels: tuple[int, int]
    """How many of the kept channels are for the features, and how many for the estimate."""
    reach: int
    """From how many LR rows above and below a kept row is made."""
    step: int
    """LR rows for one kept row."""

    def survey(self) -> Rows | None:
        """What of every row must be known, as a sum over the image, before `layers` can begin; None: nothing."""

    def layers(self, total: Tensor | None, height: int, width: int) -> Rows:
        """LR rows in [-1, 1] -> kept rows; `total` (channels,) sums what `survey` gave for an LR image of that size."""

    def features(self, kept: Tensor) -> Tensor:
        """Kept rows of the features' channels -> rows of the features on the latent grid."""

    def condition(self, lr: Tensor, kept: Tensor, above: int, below: int) -> LRCondition:
        """Prediction and deviation, without features, for LR rows and kept rows of the estimate's channels.

        Both come with `above` and `below` neighbours, up to `margin`, for which there is no result.
        """

    @property
    def margin(self) -> int:
        """Neighbouring rows that `condition` needs, where the image has them."""


class PredictiveStemRows:
    """`PredictiveStem` by rows."""

    margin = _RESAMPLING_REACH
    step = 1

    def __init__(self, stem: PredictiveStem) -> None:
        self._stem = stem
        config = stem.config
        self.channels = config.channels, 3 * config.scale**2 + 1
        # conv_in, two convolutions a block, at most two behind them
        self.reach = _DETAIL_REACH + 1 + 2 * config.num_blocks + 2

    def survey(self) -> Rows | None:
        """See `StemRows`."""
        if self._stem.summary is None:
            return None
        return Chain(*self._entry(), *_layers(self._stem.summary.layers))

    def layers(self, total: Tensor | None, height: int, width: int) -> Rows:
        """See `StemRows`."""
        stem = self._stem
        blocks = list(cast(Iterable[ResidualBlock], stem.blocks))
        modulations: list[Tensor | None] = [None] * len(blocks)
        if stem.summary is not None:
            assert total is not None
            mean = total / (-(-height // 2) * -(-width // 2))
            mean = mean.to(stem.summary.to_modulation.weight)[None]
            modulations = list(stem.summary.modulation(mean).chunk(len(blocks), dim=1))
        body = [residual_block_rows(*pair) for pair in zip(blocks, modulations, strict=True)]
        heads = Joined(
            lambda *kept: torch.cat(kept, dim=1),
            PerPixel(stem.feature_norm),
            Convolution(stem.conv_out),
            Chain(*_layers(stem.deviation_head)),
        )
        return Chain(*self._entry(), residual(*body), heads)

    def features(self, kept: Tensor) -> Tensor:
        """See `StemRows`."""
        return F.pixel_unshuffle(kept, self._stem.config.patch)

    def condition(self, lr: Tensor, kept: Tensor, above: int, below: int) -> LRCondition:
        """See `StemRows`."""
        learned, log_deviation = kept[:, :-1], kept[:, -1:]
        estimate = self._stem.estimate(lr, learned, log_deviation)
        scale = self._stem.config.scale
        rows = slice(scale * above, scale * (lr.shape[2] - below))
        prediction, deviation = (x[:, :, rows] for x in estimate)
        return LRCondition(lr.new_empty(0), prediction, deviation)

    def _entry(self) -> list[Rows]:
        return [Window(self._stem.seen, _DETAIL_REACH), Convolution(self._stem.conv_in)]


class StridedStemRows:
    """`StridedStem` by rows: all that it says are features."""

    margin = 0

    def __init__(self, stem: StridedStem) -> None:
        self._stem = stem
        self.channels = stem.config.channels, 0
        self.step = stem.multiple_of
        self.reach = 2 * stem.multiple_of

    def survey(self) -> Rows | None:
        """See `StemRows`."""
        return None

    def layers(self, total: Tensor | None, height: int, width: int) -> Rows:
        """See `StemRows`."""
        dtype = self._stem.layers[0].get_parameter("weight").dtype
        pairs = [part for layer in _layers(self._stem.layers) for part in (layer, PerPixel(F.silu))]
        return Chain(PerPixel(lambda lr: lr.to(dtype)), *pairs)

    def features(self, kept: Tensor) -> Tensor:
        """See `StemRows`."""
        return kept

    def condition(self, lr: Tensor, kept: Tensor, above: int, below: int) -> LRCondition:
        """See `StemRows`."""
        return LRCondition(lr.new_empty(0))


def stem_rows(stem: LRStem) -> StemRows:
    """A stem of either kind by rows."""
    return PredictiveStemRows(stem) if isinstance(stem, PredictiveStem) else StridedStemRows(stem)


def _layers(modules: Iterable[nn.Module]) -> list[Rows]:
    return [Convolution(m) if isinstance(m, nn.Conv2d) else PerPixel(m) for m in modules]
