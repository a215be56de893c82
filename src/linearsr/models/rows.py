"""Convolutional networks that images flow through a few rows at a time, or all rows at once.

Each part keeps only the rows that its next output needs, so an image of any height goes through in the memory
of a strip, and the result is that of the same layers on the whole image: nothing is computed twice, no border
is invented, and there are no tiles. The output lags behind the input until the last rows go in.

Shape legend: B images, C channels, n rows of images of the width w, which are a tensor (B, C, n, w).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rows(Protocol):
    """A part of a network that rows flow through, once from top to bottom."""

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        """Take the next rows and return the output rows that are now complete; None: none yet.

        `last` says that no more rows follow, so everything that waits comes out; then `x` may be None.
        """


def through(part: Rows, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield everything that comes out of `part` for an image in strips."""
    # one strip behind, because the last one is pushed with `last`
    before: Tensor | None = None
    for strip in strips:
        out = None if before is None else part.push(before)
        if out is not None:
            yield out
        before = strip
    out = part.push(before, last=True)
    if out is not None:
        yield out


def total_of(part: Rows, strips: Iterable[Tensor]) -> Tensor:
    """Sum the output of `part` for each image and channel: (B, C) in float64 on the CPU."""
    total = torch.zeros((), dtype=torch.float64)
    for out in through(part, strips):
        # float32 on the device, because not every device has float64
        total = total + out.float().sum((2, 3)).cpu().double()
    return total


def whole(part: Rows, image: Tensor) -> Tensor:
    """Return the output of `part` for whole images (B, C, h, w)."""
    out = part.push(image, last=True)
    assert out is not None
    return out


class PerPixel:
    """A function that sees no neighbours; it may change the channels, and the size by a whole factor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        return None if x is None else self._function(x)


class _Lagging:
    """A part that keeps rows until the rows below them arrive."""

    _rest: Tensor | None = None

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        x = _stacked(self._rest, x)
        if x is None:
            return None
        out, rest = self._take(x, last)
        # a copy, because a view would keep the whole strip in memory
        self._rest = rest.clone() if rest.shape[2] and not last else None
        return out

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        """Return the output that is complete for the rows at hand, and the rows that are needed again."""
        raise NotImplementedError


class Convolution(_Lagging):
    """A convolution of any stride; `function` computes it instead of its weights, `beyond` is the padded value."""

    def __init__(
        self,
        conv: nn.Conv2d,
        function: Callable[[Tensor, tuple[int, int]], Tensor] | None = None,
        beyond: int = 0,
    ) -> None:
        self._conv, self._beyond = conv, beyond
        self._convolved = function or self._by_weights
        self._kernel, self._stride = int(conv.kernel_size[0]), int(conv.stride[0])
        self._margin, self._side = (int(size) for size in conv.padding)

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        first = self._rest is None
        if first and last:
            # the whole image at once: the convolution pads it, which saves a copy
            return self._convolved(x, (self._margin, self._side)), x
        if first or last:
            x = F.pad(x, (0, 0, self._margin * first, self._margin * last), value=self._beyond)
        count = max(0, (x.shape[2] - self._kernel) // self._stride + 1)
        return self._convolved(x, (0, self._side)) if count else None, x[:, :, count * self._stride :]

    def _by_weights(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Convolve in the dtype of the rows, which may have more digits than the weights."""
        conv, weight = self._conv, self._conv.weight.to(x.dtype)
        bias = None if conv.bias is None else conv.bias.to(x.dtype)
        return convolve(x, weight, bias, conv.stride, padding, conv.dilation, conv.groups)


class Window(_Lagging):
    """A function that sees `reach` rows above and below, and makes one row of each row.

    It gets strips with their neighbours. At the image's own borders neighbours are missing, as they are for
    the whole image, so border effects occur there and only there.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], reach: int) -> None:
        self._function, self._reach = function, reach
        self._above = 0

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        done = self._above
        end = max(done, x.shape[2] - (0 if last else self._reach))
        self._above = min(self._reach, end)
        out = self._function(x)[:, :, done:end] if end > done else None
        return out, x[:, :, end - self._above :]


class Grouped(_Lagging):
    """Unchanged rows, in whole groups of `size`."""

    def __init__(self, size: int) -> None:
        self._size = size

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        end = x.shape[2] if last else x.shape[2] // self._size * self._size
        return x[:, :, :end] if end else None, x[:, :, end:]


class Extended(_Lagging):
    """Rows with a mirrored margin on every side, for layers that would otherwise see zeros there."""

    def __init__(self, margin: int) -> None:
        self._margin, self._first = margin, True

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        # hold these rows back: if they are the last ones, they are mirrored
        end = x.shape[2] if last else max(0, x.shape[2] - self._margin - 1)
        if not end:
            return None, x
        above = self._margin * self._first
        self._first = False
        extended = _mirrored(x, (self._margin, self._margin, above, self._margin * last))
        return extended if last else extended[:, :, : above + end], x[:, :, end:]


class Cropped(_Lagging):
    """Rows without the outermost `margin` pixels on every side."""

    def __init__(self, margin: int) -> None:
        self._margin, self._above = margin, margin

    def _take(self, x: Tensor, last: bool) -> tuple[Tensor | None, Tensor]:
        done = min(self._above, x.shape[2])
        self._above -= done
        # the last rows at hand are the margin below, unless more follow
        end = max(done, x.shape[2] - self._margin)
        out = x[:, :, done:end, self._margin : x.shape[3] - self._margin] if end > done else None
        return out, x[:, :, end:]


class InPieces:
    """A part that gets at most so many pixels at once, even when all lagging rows come with the last ones."""

    def __init__(self, pixels: int, part: Rows) -> None:
        self._pixels, self._part = pixels, part

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        if x is None:
            return self._part.push(None, last)
        *pieces, end = torch.split(x, max(1, self._pixels // x.shape[3]), dim=2)
        made = [self._part.push(piece) for piece in pieces] + [self._part.push(end, last)]
        there = [rows for rows in made if rows is not None]
        return torch.cat(there, dim=2) if there else None


class Chain:
    """Parts in sequence."""

    def __init__(self, *parts: Rows) -> None:
        self._parts = parts

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        for part in self._parts:
            if x is None and not last:
                return None
            x = part.push(x, last)
        return x


class Joined:
    """Parts in parallel on the same rows; `join` merges their outputs row by row."""

    def __init__(self, join: Callable[..., Tensor], *parts: Rows) -> None:
        self._join = join
        self._parts = parts
        self._waiting: Sequence[Tensor | None] = [None] * len(parts)

    def push(self, x: Tensor | None, last: bool = False) -> Tensor | None:
        new = [part.push(x, last) for part in self._parts]
        rows = [_stacked(*pair) for pair in zip(self._waiting, new, strict=True)]
        count = min(0 if part is None else part.shape[2] for part in rows)
        self._waiting = [
            None if part is None or part.shape[2] == count else part[:, :, count:].clone() for part in rows
        ]
        return self._join(*(part[:, :, :count] for part in rows if part is not None)) if count else None


def beside(join: Callable[[Tensor, Tensor], Tensor], *parts: Rows) -> Joined:
    """Return a part that computes join(x, parts(x))."""
    return Joined(join, PerPixel(lambda x: x), Chain(*parts))


def residual(*parts: Rows, scale: float = 1) -> Joined:
    """Return a part that computes x + scale * parts(x)."""
    return beside(partial(torch.add, alpha=scale), *parts)


def on_channels(*images: Tensor) -> Tensor:
    """Join images (B, C_i, h, w) on channels: (B, sum of C_i, h, w)."""
    return torch.cat(images, dim=1)


def layers_of(modules: Iterable[nn.Module]) -> list[Rows]:
    """Wrap convolutions, and layers that see no neighbours, as parts."""
    return [Convolution(m) if isinstance(m, nn.Conv2d) else PerPixel(m) for m in modules]


def _mirrored(x: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Mirror at the outermost pixels without repeating them; a side too short for that repeats its last."""
    most = (x.shape[3] - 1,) * 2 + (x.shape[2] - 1,) * 2
    there = [min(pair) for pair in zip(sides, most, strict=True)]
    return F.pad(
        F.pad(x, there, mode="reflect"),
        [side - known for side, known in zip(sides, there, strict=True)],
        mode="replicate",
    )


def _stacked(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return torch.cat([first, second], dim=2)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Compute `torch.nn.functional.conv2d`, correctly for results of one column too.

    With a stride in bfloat16, oneDNN's kernels for AMX read uninitialised memory there, which may hold NaN:
    such a result is computed in float32.
    """
    narrow = not isinstance(padding, str) and (x.shape[3] + 2 * padding[1] - weight.shape[3]) < stride[1]
    if narrow and stride[1] > 1 and x.dtype == torch.bfloat16:
        offset = None if bias is None else bias.float()
        exact = F.conv2d(x.float(), weight.float(), offset, stride, padding, dilation, groups)
        return exact.to(x.dtype)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class StridedConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` computed by `convolve`; pixels beyond the border count as zero."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return convolve(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def joined(*images: Tensor) -> Tensor:
    """Join images (B, C_i, h, w) of one dtype on channels, in channels-last memory: (B, sum of C_i, h, w)."""
    pixels = [image.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) for image in images]
    # in a batch of one, strides fit either layout, and `cat` on channels takes the wrong one
    return torch.cat(pixels, dim=-1).permute(0, 3, 1, 2)
