"""From the rows of a latent to rows of the HR picture: codec, colours, scale."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from linearsr.images.colour import WAVELET_REACH, match_statistics, to_unit, wavelet_colour_fix
from linearsr.images.graphics import SQUARES_REACH, squares_where_lost
from linearsr.images.resize import resize_rows
from linearsr.models.codec import Codec, DeepCompressionCodec
from linearsr.models.codec_rows import Stage, decoder_stages
from linearsr.models.lr_stem import LRCondition
from linearsr.models.rows import through, total_of
from linearsr.settings import Options
from linearsr.streaming.buffers import Buffer
from linearsr.streaming.network import ReadRows
from linearsr.streaming.source import LRRows, strips
from linearsr.streaming.work import Body, Report, Work


class StreamedCodec:
    """A decoded picture by rows.

    Args:
        latent: rows of the latent.
        condition: the stem's for rows of the latent.
        grid: height and width of the latent.
        strip: latent rows to work on at a time.
    """

    def __init__(
        self,
        codec: Codec,
        latent: ReadRows,
        condition: Callable[[int, int], LRCondition],
        work: Work,
        grid: tuple[int, int],
        strip: int,
    ) -> None:
        self._codec, self._latent, self._condition, self._work = codec, latent, condition, work
        self._grid, self._strip = grid, strip
        self._stages: list[Stage] = []
        if isinstance(codec, DeepCompressionCodec):
            self._stages = decoder_stages(codec.autoencoder)

    @property
    def cost(self) -> float:
        """Of all passes, in multiply-accumulates."""
        return sum(stage.cost for stage in self._stages) * self._grid[0] * self._grid[1]

    def run(self) -> None:
        """The passes before any row can be had."""
        for i, stage in enumerate(self._stages):
            cost = stage.cost * self._grid[0] * self._grid[1]
            self._work.do(f"decoder {i}", "decoding", cost, self._pass(i))
            self._work.drop(f"decoded {i - 1}")

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows of the picture, (1, 3, bottom - top, W) in about [-1, 1], in float32."""
        if self._stages:
            image = self._buffer(len(self._stages) - 1).read(top, bottom)
            return image.to(self._device).permute(2, 0, 1)[None].float()
        scale = self._codec.compression
        first, last = top // scale, -(-bottom // scale)
        image = self._codec.decode(self._latent(first, last), self._condition(first, last))
        return image.float()[:, :, top - first * scale : bottom - first * scale]

    def _pass(self, i: int) -> Body:
        stage = self._stages[i]

        def body(total: Tensor | None, report: Report) -> Tensor | None:
            target = self._buffer(i)
            survey = stage.survey() if stage.survey is not None else None

            def outputs() -> Iterator[Tensor]:
                done = 0
                for out in through(stage.layers(total), self._inputs(i, report)):
                    target.write(done, out[0].permute(1, 2, 0))
                    done += out.shape[2]
                    yield out

            if survey is None:
                for _ in outputs():
                    pass
                return None
            return total_of(survey, outputs())

        return body

    def _inputs(self, i: int, report: Report) -> Iterator[Tensor]:
        for top, bottom in strips(self._grid[0], self._strip):
            if i == 0:
                assert isinstance(self._codec, DeepCompressionCodec)
                yield self._codec.unscaled(self._latent(top, bottom))
            else:
                scale = self._stages[i - 1].scale
                rows = self._buffer(i - 1).read(top * scale, bottom * scale)
                yield rows.to(self._device).permute(2, 0, 1)[None]
            report(bottom / self._grid[0])

    def _buffer(self, i: int) -> Buffer:
        stage = self._stages[i]
        height, width = (side * stage.scale for side in self._grid)
        assert isinstance(self._codec, DeepCompressionCodec)
        return self._work.buffer(
            f"decoded {i}", height, (width, stage.channels), self._codec.autoencoder.dtype
        )

    @property
    def _device(self) -> torch.device:
        assert isinstance(self._codec, DeepCompressionCodec)
        return torch.device(self._codec.autoencoder.device)


class FinishedRows:
    """Rows of the result in [0, 1]: cropped to the picture, its colours put back, at the scale that was asked for.

    Args:
        decoded: rows of the decoded picture, padding included.
        size: height and width of the result.
        scale: the model's own.
        options: as settled for the picture.
    """

    def __init__(
        self, decoded: ReadRows, lr: LRRows, size: tuple[int, int], scale: int, options: Options
    ) -> None:
        self._decoded, self._lr, self._size, self._scale = decoded, lr, size, scale
        self._lr_size = lr.reader.height, lr.reader.width
        self._own_size = self._lr_size[0] * scale, self._lr_size[1] * scale
        self._color_fix, self._drawing = options.color_fix, options.drawing
        self._statistics: Tensor | None = None

    @property
    def needs_statistics(self) -> bool:
        """Whether all rows must be looked at once before the first can be finished."""
        return self._color_fix == "adain"

    def survey(self, strip: int, report: Report) -> Tensor:
        """Sums of x and x^2 for the channels of the picture and of its reference: (12,)."""
        total = torch.zeros(12, dtype=torch.float64)
        for top, bottom in strips(self._own_size[0], strip):
            both = torch.cat([self._cropped(top, bottom), self._reference(top, bottom)], dim=1).double()
            total += torch.cat([both.sum((0, 2, 3)), both.square().sum((0, 2, 3))]).cpu()
            report(bottom / self._own_size[0])
        return total

    def use_statistics(self, total: Tensor) -> None:
        """What `survey` found."""
        self._statistics = total

    def read(self, top: int, bottom: int) -> Tensor:
        """Rows of the result, (1, 3, bottom - top, W), clamped to [0, 1]. Raises ValueError where it is not finite."""
        if self._size == self._own_size:
            rows = self._at_own_size(top, bottom)
        else:
            rows = resize_rows(self._at_own_size, self._own_size, self._size, top, bottom, "lanczos")
        return to_unit(rows)

    def _at_own_size(self, top: int, bottom: int) -> Tensor:
        if not self._drawing:
            return self._coloured(top, bottom)
        first = max(0, top // self._scale - SQUARES_REACH)
        last = min(self._lr_size[0], -(-bottom // self._scale) + SQUARES_REACH)
        start = first * self._scale
        image = self._coloured(start, last * self._scale)
        kept = squares_where_lost(image, self._unit(first, last), self._drawing)
        return kept[:, :, top - start : bottom - start]

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
        first = max(0, top // self._scale - WAVELET_REACH)
        last = min(self._lr_size[0], -(-bottom // self._scale) + WAVELET_REACH)
        image = self._cropped(first * self._scale, last * self._scale)
        fixed = wavelet_colour_fix(image, (self._lr.unpadded(first, last) + 1) / 2)
        return fixed[:, :, top - first * self._scale : bottom - first * self._scale]


def _mean_and_deviation(
    total: Tensor, count: int, like: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    sums, squares = total.chunk(2)
    mean = sums / count
    variance = (squares - count * mean.square()).clamp(min=0) / max(1, count - 1)
    mean, deviation = (x.to(like).view(1, 6, 1, 1) for x in (mean, variance.sqrt()))
    return (mean[:, :3], deviation[:, :3]), (mean[:, 3:], deviation[:, 3:])
