"""From the rows of latents to rows of HR pictures: codec, colours, scale."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from linearsr.images.colour import (
    WAVELET_REACH,
    clamp_keeping_means,
    match_statistics,
    to_unit,
    wavelet_colour_fix,
)
from linearsr.images.graphics import SQUARES_REACH, squares_where_lost
from linearsr.images.resize import resize_rows, scaled_size
from linearsr.models.codec import Codec, DeepCompressionCodec
from linearsr.models.lr_stem import LRCondition
from linearsr.models.rows import through, total_of
from linearsr.settings import Options
from linearsr.streaming.rows import Buffer, LRRows, ReadRows, Report, Work, strips

_COST = 4000
"""Of a pixel, about, in multiply-accumulates."""


class DecodedRows:
    """Decoded pictures.

    Args:
        latent: rows of the latents.
        condition: the stem's for rows of the latents.
        shape: of the latents, (B, C, h, w).
        strip: latent rows to work on at a time; None: all.
    """

    def __init__(
        self,
        codec: Codec,
        latent: ReadRows,
        condition: Callable[[int, int], LRCondition],
        work: Work,
        shape: tuple[int, int, int, int],
        strip: int | None,
    ) -> None:
        self._codec, self._latent, self._condition, self._work = codec, latent, condition, work
        self._shape, self._strip = shape, strip or shape[2]
        self._stages = codec.stages() if isinstance(codec, DeepCompressionCodec) else []
        self.cost = sum(stage.cost for stage in self._stages) * shape[2] * shape[3]

    def run(self) -> None:
        """The passes before any row can be had."""
        total: Tensor | None = None
        for i, stage in enumerate(self._stages):
            cost = stage.cost * self._shape[2] * self._shape[3]
            total = self._work.do("decoding", cost, partial(self._pass, i, total))
            self._work.drop(f"decoded {i - 1}")

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows of the pictures, (B, 3, bottom - top, W) in about [-1, 1], in float32."""
        if self._stages:
            return self._buffer(len(self._stages) - 1).read(top, bottom).to(self._device).float()
        scale = self._codec.compression
        first, last = top // scale, -(-bottom // scale)
        image = self._codec.decode(self._latent(first, last), self._condition(first, last))
        return image.float()[:, :, top - first * scale : bottom - first * scale]

    def _pass(self, i: int, total: Tensor | None, report: Report) -> Tensor | None:
        stage, target = self._stages[i], self._buffer(i)

        def outputs() -> Iterator[Tensor]:
            done = 0
            for out in through(stage.layers(total), self._inputs(i, report)):
                target.write(done, out)
                done += out.shape[2]
                yield out

        if stage.survey is not None:
            return total_of(stage.survey(), outputs())
        for _ in outputs():
            pass
        return None

    def _inputs(self, i: int, report: Report) -> Iterator[Tensor]:
        for top, bottom in strips(self._shape[2], self._strip):
            if i == 0:
                assert isinstance(self._codec, DeepCompressionCodec)
                yield self._codec.unscaled(self._latent(top, bottom))
            else:
                scale = self._stages[i - 1].scale
                rows = self._buffer(i - 1).read(top * scale, bottom * scale).to(self._device)
                # in one layout for a strip and for the whole: another is rounded in another way
                yield rows.contiguous(memory_format=torch.channels_last)
            report(bottom / self._shape[2])

    def _buffer(self, i: int) -> Buffer:
        stage = self._stages[i]
        batch, _, height, width = self._shape
        shape = batch, stage.channels, height * stage.scale, width * stage.scale
        assert isinstance(self._codec, DeepCompressionCodec)
        return self._work.buffer(f"decoded {i}", shape, self._codec.autoencoder.dtype)

    @property
    def _device(self) -> torch.device:
        assert isinstance(self._codec, DeepCompressionCodec)
        return torch.device(self._codec.autoencoder.device)


class FinishedRows:
    """Rows of results in [0, 1]: cropped to the pictures, their colours put back, at the scale that was asked for.

    Args:
        decoded: rows of the decoded pictures, padding included.
        scale: the model's own.
        strip: rows at the model's own scale to work on at a time; None: all.
        options: as settled for the pictures.
    """

    def __init__(
        self, decoded: ReadRows, lr: LRRows, work: Work, scale: int, strip: int | None, options: Options
    ) -> None:
        self._decoded, self._lr, self._work, self._scale = decoded, lr, work, scale
        self._lr_size = lr.own_size
        self._own_size = self._lr_size[0] * scale, self._lr_size[1] * scale
        self._size = scaled_size(*self._lr_size, options.scale)
        self._strip = strip or self._own_size[0]
        self._color_fix, self._drawing = options.color_fix, options.drawing
        self._statistics: Tensor | None = None
        self.cost = _COST * self._own_size[0] * self._own_size[1]

    def run(self, write: Callable[[Tensor], None]) -> None:
        """Write all rows (B, 3, n, W) from top to bottom. Raises ValueError where they are not finite."""
        if self._color_fix == "adain":
            self._statistics = self._work.do("colours", 0, self._survey)
        self._work.do("writing", self.cost, lambda report: self._write(write, report))

    def _write(self, write: Callable[[Tensor], None], report: Report) -> None:
        for top, bottom in strips(self._size[0], max(1, self._strip * self._size[0] // self._own_size[0])):
            write(self.read(top, bottom))
            report(bottom / self._size[0])

    def _survey(self, report: Report) -> Tensor:
        """Sums of x and x^2 for the channels of the pictures and of their references: (B, 12)."""
        total = torch.zeros((), dtype=torch.float64)
        for top, bottom in strips(self._own_size[0], self._strip):
            both = torch.cat([self._cropped(top, bottom), self._reference(top, bottom)], dim=1).double()
            total = total + torch.cat([both.sum((2, 3)), both.square().sum((2, 3))], dim=1).cpu()
            report(bottom / self._own_size[0])
        return total

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows of the results, (B, 3, bottom - top, W), clamped to [0, 1]."""
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
        """Rows `top` to `bottom` of what `change` makes of an image and its LR image, `reach` LR pixels around."""
        first = max(0, top // self._scale - reach)
        last = min(self._lr_size[0], -(-bottom // self._scale) + reach)
        start = first * self._scale
        changed = change(rows(start, last * self._scale), self._unit(first, last))
        return changed[:, :, top - start : bottom - start]

    def _cropped(self, top: int, bottom: int) -> Tensor:
        return (self._decoded(top, bottom)[..., : self._own_size[1]] + 1) / 2

    def _unit(self, top: int, bottom: int) -> Tensor:
        return (self._lr.unpadded(top, bottom) + 1) / 2

    def _reference(self, top: int, bottom: int) -> Tensor:
        return resize_rows(self._unit, self._lr_size, self._own_size, top, bottom, "bicubic")

    def _coloured(self, top: int, bottom: int) -> Tensor:
        if self._color_fix == "none":
            return self._cropped(top, bottom)
        if self._color_fix == "adain":
            assert self._statistics is not None
            image = self._cropped(top, bottom)
            own, wanted = _mean_and_deviation(self._statistics, self._own_size[0] * self._own_size[1], image)
            return match_statistics(image, own, wanted)
        return self._beside_lr(self._cropped, _with_low_frequencies, 2 * WAVELET_REACH, top, bottom)


def _with_low_frequencies(image: Tensor, lr: Tensor) -> Tensor:
    return clamp_keeping_means(wavelet_colour_fix(image, lr), lr)


def _mean_and_deviation(
    total: Tensor, count: int, like: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    sums, squares = total.chunk(2, dim=1)
    mean = sums / count
    variance = (squares - count * mean.square()).clamp(min=0) / max(1, count - 1)
    mean, deviation = (x.to(like).view(-1, 6, 1, 1) for x in (mean, variance.sqrt()))
    return (mean[:, :3], deviation[:, :3]), (mean[:, 3:], deviation[:, 3:])
