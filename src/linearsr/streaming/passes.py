"""The passes before and after the walk, by rows: trunk and stem on LR images, decoding, and finishing."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.images.colour import WAVELET_REACH, clamp_keeping_means, to_unit, wavelet_colour_fix
from linearsr.images.graphics import SQUARES_REACH, squares_where_lost
from linearsr.images.mixing import MIXING_REACH, towards_mean
from linearsr.images.resize import resize_rows, scaled_size
from linearsr.models.codec import Codec
from linearsr.models.lr_stem import LRCondition, LRStem
from linearsr.models.rows import through, total_of
from linearsr.models.rrdb import RRDBNet
from linearsr.settings import Options
from linearsr.streaming.memory import TRUNK_STRIP_PIXELS
from linearsr.streaming.rows import Buffer, LRRows, ReadRows, Report, Work, fill, filling, strips

_PIXEL_COST = 4000
"""Approximate cost of a pixel of the result, in multiply-accumulates."""
_OUTPUT_STRIPS = 2
"""Strips of the networks in one strip of the result, so that the rows around it, read twice, cost less."""


class TrunkRows:
    """The picture drawn by the trunk, for 0 steps."""

    def __init__(self, trunk: RRDBNet, lr: LRRows, work: Work) -> None:
        self._trunk, self._lr, self._work = trunk, lr, work
        shape = lr.batch, 3, trunk.scale * lr.height, trunk.scale * lr.width
        self._drawn = work.buffer("drawn", shape, torch.float32)
        self.cost = trunk.macs_per_pixel * lr.height * lr.width

    def run(self) -> None:
        """Draw all rows."""
        self._work.do("trunk", self.cost, self._draw)

    def read(self, top: int, bottom: int) -> Tensor:
        """Read HR rows (B, 3, bottom - top, W), float32 in about [-1, 1]."""
        return self._drawn.read(top, bottom).to(self._lr.device)

    def _draw(self, report: Report) -> None:
        strip, rows = self._lr.height, self._trunk.rows()
        if self._work.strip is not None:
            strip = max(1, min(self._work.strip, TRUNK_STRIP_PIXELS // self._lr.width))
            rows = self._trunk.rows(TRUNK_STRIP_PIXELS)
        fill(self._drawn, through(rows, self._lr.strips(strip, report)))


class StemRows:
    """The stem's condition, by rows of the latent grid. Reading finishes its estimate of the picture."""

    def __init__(self, stem: LRStem, lr: LRRows, work: Work) -> None:
        self._stem, self._lr, self._work = stem, lr, work
        self._height, width = lr.height // stem.multiple_of, lr.width // stem.multiple_of
        dtype = next(stem.parameters()).dtype
        self._kept = [
            work.buffer(name, (lr.batch, channels, self._height, width), dtype)
            for name, channels in zip(("features", "estimate"), stem.kept_channels, strict=True)
        ]
        self.cost = sum(p.numel() for p in stem.parameters()) * lr.height * lr.width

    def run(self) -> None:
        """Sum up what blocks need to know of the whole image, then run all layers."""
        total = self._work.do("stem", 0, self._survey)
        self._work.do("stem", self.cost, partial(self._keep, total))

    def features(self, top: int, bottom: int) -> Tensor:
        """Read the features that condition every step: rows of the latent grid, (B, C, bottom - top, w)."""
        return self._kept[0].read(top, bottom).to(self._lr.device)

    def condition(self, top: int, bottom: int) -> LRCondition:
        """Return prediction and deviation for rows of the latent grid, if the stem makes any."""
        if not self._stem.margin:
            return LRCondition(torch.empty(0))
        step = self._stem.multiple_of
        margin = -(-self._stem.margin // step)
        first, last = max(0, top - margin), min(self._height, bottom + margin)
        kept = self._kept[1].read(first, last).to(self._lr.device)
        made = self._stem.estimate(self._lr.read(step * first, step * last), kept)
        assert made.prediction is not None
        assert made.deviation is not None
        scale = made.prediction.shape[2] // (last - first)
        rows = slice(scale * (top - first), scale * (bottom - first))
        return LRCondition(made.features, made.prediction[:, :, rows], made.deviation[:, :, rows])

    def _strips(self, report: Report) -> Iterator[Tensor]:
        return self._lr.strips(self._work.strip or self._lr.height, report)

    def _survey(self, report: Report) -> Tensor | None:
        part = self._stem.survey()
        return None if part is None else total_of(part, self._strips(report))

    def _keep(self, total: Tensor | None, report: Report) -> None:
        layers = self._stem.rows(total, (self._lr.height, self._lr.width))
        done = 0
        for out in through(layers, self._strips(report)):
            kept = torch.split(out, list(self._stem.kept_channels), dim=1)
            for buffer, rows in zip(self._kept, kept, strict=True):
                # every step reads the features: channels-last as tokens are, and apart from the estimate
                buffer.write(done, rows.contiguous(memory_format=torch.channels_last))
            done += out.shape[2]


class ZeroLatents:
    """Latents of zeros (B, C, h, w), for 0 steps."""

    cost = 0.0

    def __init__(self, lr: LRRows, shape: tuple[int, int, int, int]) -> None:
        self.shape, self._device = shape, lr.device

    def run(self) -> None:
        """Do nothing."""

    def latent(self, top: int, bottom: int) -> Tensor:
        """Return rows of zeros, (B, C, bottom - top, w)."""
        batch, channels, _, width = self.shape
        return torch.zeros(batch, channels, bottom - top, width, device=self._device)


class DecodedRows:
    """The pictures that the codec decodes from latents.

    Args:
        latent: reads rows of the latents.
        condition: returns the stem's condition for rows of the latents.
        shape: shape of the latents, (B, C, h, w).
    """

    def __init__(
        self,
        codec: Codec,
        latent: ReadRows,
        condition: Callable[[int, int], LRCondition],
        lr: LRRows,
        work: Work,
        shape: tuple[int, int, int, int],
    ) -> None:
        self._codec, self._latent, self._condition = codec, latent, condition
        self._lr, self._work, self._shape = lr, work, shape
        self._stages = codec.stages()
        self.cost = sum(stage.cost for stage in self._stages) * shape[2] * shape[3]

    def run(self) -> None:
        """Run the passes that come before any row can be read."""
        total: Tensor | None = None
        for i, stage in enumerate(self._stages):
            cost = stage.cost * self._shape[2] * self._shape[3]
            total = self._work.do("decoding", cost, partial(self._pass, i, total))
            self._work.drop(f"decoded {i - 1}")

    def read(self, top: int, bottom: int) -> Tensor:
        """Read rows of the pictures (B, 3, bottom - top, W), float32 in about [-1, 1]."""
        if self._stages:
            return self._buffer(len(self._stages) - 1).read(top, bottom).to(self._lr.device).float()
        scale = self._codec.compression
        first, last = top // scale, -(-bottom // scale)
        image = self._codec.decode(self._latent(first, last), self._condition(first, last))
        return image.float()[:, :, top - first * scale : bottom - first * scale]

    def _pass(self, i: int, total: Tensor | None, report: Report) -> Tensor | None:
        stage, target = self._stages[i], self._buffer(i)
        made = through(stage.layers(total), self._inputs(i, report))
        if stage.survey is None:
            fill(target, made)
            return None
        return total_of(stage.survey(), filling(target, made))

    def _inputs(self, i: int, report: Report) -> Iterator[Tensor]:
        for top, bottom in strips(self._shape[2], self._work.rows(self._shape[2], self._lr.height)):
            if i == 0:
                yield self._latent(top, bottom)
            else:
                scale = self._stages[i - 1].scale
                rows = self._buffer(i - 1).read(top * scale, bottom * scale).to(self._lr.device)
                # one memory layout for strips and whole images, because another rounds differently
                yield rows.contiguous(memory_format=torch.channels_last)
            report(bottom / self._shape[2])

    def _buffer(self, i: int) -> Buffer:
        stage, (batch, _, height, width) = self._stages[i], self._shape
        shape = batch, stage.channels, height * stage.scale, width * stage.scale
        return self._work.buffer(f"decoded {i}", shape, stage.dtype)


def mixed(drawn: ReadRows, mean: ReadRows, fidelity: float, height: int) -> ReadRows:
    """Mix rows of the drawn picture with rows of the mean; both have `height` rows."""
    if fidelity == 0:
        return drawn

    def read(top: int, bottom: int) -> Tensor:
        first, last = max(0, top - MIXING_REACH), min(height, bottom + MIXING_REACH)
        rows = towards_mean(drawn(first, last), mean(first, last), fidelity)
        return rows[:, :, top - first : bottom - first]

    return read


class FinishedRows:
    """The results in [0, 1]: pictures without padding, with corrected colours, at the requested scale.

    Args:
        decoded: reads rows of the decoded pictures, padding included.
        scale: the model's own scale.
        options: the final options for the pictures.
        write: takes all rows (B, n, W, 3), one strip after the other.
    """

    def __init__(
        self,
        decoded: ReadRows,
        lr: LRRows,
        work: Work,
        scale: int,
        options: Options,
        write: Callable[[NDArray[np.float32]], None],
    ) -> None:
        self._decoded, self._lr, self._work, self._scale, self._write = decoded, lr, work, scale, write
        self._lr_size = lr.own_size
        self._own_size = self._lr_size[0] * scale, self._lr_size[1] * scale
        self._size = scaled_size(*self._lr_size, options.scale)
        self._color_fix, self._drawing = options.color_fix, options.drawing
        self.cost = _PIXEL_COST * self._own_size[0] * self._own_size[1]

    def run(self) -> None:
        """Write all rows from top to bottom. Raises ValueError when they are not finite."""
        self._work.do("writing", self.cost, self._write_all)

    def _write_all(self, report: Report) -> None:
        height, lr_height = self._size[0], self._lr.own_size[0]
        for top, bottom in strips(height, self._work.rows(height, lr_height, _OUTPUT_STRIPS)):
            self._write(self.read(top, bottom).permute(0, 2, 3, 1).cpu().numpy())
            report(bottom / height)

    def read(self, top: int, bottom: int) -> Tensor:
        """Compute rows of the results (B, 3, bottom - top, W), clamped to [0, 1]."""
        if self._size == self._own_size:
            rows = self._at_own_size(top, bottom)
        else:
            rows = resize_rows(self._at_own_size, self._own_size, self._size, top, bottom, "lanczos")
        return to_unit(rows)

    def _at_own_size(self, top: int, bottom: int) -> Tensor:
        if not self._drawing:
            return self._coloured(top, bottom)
        squares = partial(squares_where_lost, strength=self._drawing)
        return self._beside_lr(self._coloured, squares, SQUARES_REACH, top, bottom)

    def _beside_lr(
        self, rows: ReadRows, change: Callable[[Tensor, Tensor], Tensor], reach: int, top: int, bottom: int
    ) -> Tensor:
        """Apply `change` to rows of an image and its LR image; it needs `reach` LR rows above and below."""
        first = max(0, top // self._scale - reach)
        last = min(self._lr_size[0], -(-bottom // self._scale) + reach)
        start = first * self._scale
        changed = change(rows(start, last * self._scale), self._unit(first, last))
        return changed[:, :, top - start : bottom - start]

    def _cropped(self, top: int, bottom: int) -> Tensor:
        return (self._decoded(top, bottom)[..., : self._own_size[1]] + 1) / 2

    def _unit(self, top: int, bottom: int) -> Tensor:
        return (self._lr.unpadded(top, bottom) + 1) / 2

    def _coloured(self, top: int, bottom: int) -> Tensor:
        if self._color_fix == "none":
            return self._cropped(top, bottom)
        return self._beside_lr(self._cropped, _with_low_frequencies, 2 * WAVELET_REACH, top, bottom)


def _with_low_frequencies(image: Tensor, lr: Tensor) -> Tensor:
    return clamp_keeping_means(wavelet_colour_fix(image, lr), lr)
