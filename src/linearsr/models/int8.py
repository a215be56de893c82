"""Residual blocks in 8-bit integers, on processors that multiply them fast (AVX-512 VNNI).

A product of 8-bit numbers takes a half of the time of one in bfloat16 there, a quarter of one in float32. Weights
have a scale for each output channel. What goes into a block has a range for each channel, what lies between its
convolutions one for all; they are found beforehand on photos (`find_ranges`): so a strip of an image gives the same
numbers as the whole. Nothing is clipped: the few pixels that leave a range are put right in floating point, one by one
or, in rows where they are many, all at once. It is a matter of each row alone, and so the same in every strip.

The convolutions are oneDNN's, through the operators that torch's own quantisation uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.residual import ResidualBlock, modulated
from linearsr.models.rows import whole

Ranges = dict[str, Tensor]
"""Name of a convolution -> the largest magnitude that goes into it, (), or into each channel, (C,), in float64."""

_MOST_BEYOND = 1 / 10
"""With more of its pixels beyond a range, a row is computed in floating point too."""
_CONVOLUTIONS = "conv_1", "conv_2"
_SILU_LEAST = -0.2785
_LEVELS = 255
_NARROWEST = 1 / 16
"""The range of a channel is at least this share of the widest one: one that was silent on all photos may wake up."""
_QUANTISED_VALUES = 2**17
"""About so many are turned to integers at a time, so that the steps between stay in the cache."""
_ROUNDING = 1.5 * 2**23
"""A float32 of about this size has no digits behind the point, and its last byte counts in ones."""


@cache
def supported() -> bool:
    """Whether this processor and this torch have fast 8-bit convolutions."""
    try:
        return torch.cpu._is_vnni_supported() and _agrees_with_float()
    except (RuntimeError, AttributeError, TypeError):
        return False  # operators of another torch, with other arguments


def use_int8_(network: nn.Module, ranges: Ranges, prefix: str = "") -> None:
    """Let the residual blocks of a network compute in 8 bits whose ranges are known, by their names behind `prefix`."""
    for name, block in _residual_blocks(network):
        first, second = (ranges.get(f"{prefix}{name}.{conv}") for conv in _CONVOLUTIONS)
        if first is not None and second is not None:
            block.processor = Int8Processor(block, first, float(second.max()))


@contextmanager
def find_ranges(network: nn.Module, margin: float = 1.0) -> Iterator[Ranges]:
    """Within the context, what is computed in floating point widens the ranges that are given.

    Each is `margin` times as wide as what was seen.
    """
    ranges: Ranges = {}

    def watched(name: str, block: ResidualBlock, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        hidden = F.silu(modulated(block.conv_1(x), modulation))
        for conv, seen in zip(_CONVOLUTIONS, (x, hidden), strict=True):
            of_channels = margin * seen.abs().amax((0, 2, 3)).double()
            found = of_channels.clamp(min=_NARROWEST * float(of_channels.max()))
            widen_(ranges, f"{name}.{conv}", found if seen is x else found.max())
        out: Tensor = x + block.conv_2(hidden)
        return out

    blocks = dict(_residual_blocks(network))
    own = {name: block.processor for name, block in blocks.items()}
    try:
        for name, block in blocks.items():
            block.processor = partial(watched, name)
        yield ranges
    finally:
        for name, block in blocks.items():
            block.processor = own[name]


def widen_(ranges: Ranges, name: str, found: Tensor) -> None:
    """Make the range of that name hold `found` too."""
    ranges[name] = torch.maximum(found, ranges.get(name, found))


class Int8Processor:
    """Computes a `ResidualBlock` with 8-bit convolutions where no gradient is needed, on the CPU.

    Args:
        block: whose weights are copied as integers.
        input_range: largest magnitude of an input, (), or of each of its channels, (C,).
        hidden_range: largest magnitude between the convolutions, behind the SiLU.
    """

    def __init__(self, block: ResidualBlock, input_range: Tensor, hidden_range: float) -> None:
        largest = float(input_range.max())
        shares = input_range.float() / largest if input_range.ndim else None
        self._first = _Int8Convolution(block.conv_1, -largest, largest, shares)
        self._second = _Int8Convolution(block.conv_2, _SILU_LEAST, hidden_range)

    def __call__(self, block: ResidualBlock, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """What `block` makes of x (B, C, h, w)."""
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype == torch.float16:
            return whole(block.layers(modulation), x)
        if modulation is not None and len(x) > 1:
            # the modulation is folded into the weights' scales, and so is one for all images of a call
            each = zip(torch.split(x, 1), torch.split(modulation, 1), strict=True)
            return torch.cat([self(block, *image) for image in each])
        quantised = self._first.quantised(x)
        hidden = self._first.activated(quantised, modulation, self._second)
        beyond = _beyond(quantised, hidden)
        out = self._second.result(hidden, x.dtype).add_(x)
        full = beyond.float().mean(-1, keepdim=True) > _MOST_BEYOND
        if full.any():
            self._put_rows_right(block, out, x, hidden, beyond & full, modulation)
        places = (beyond & ~full).nonzero()
        if len(places):
            self._put_right(block, out, x, hidden, places, modulation)
        return out

    def _put_rows_right(
        self,
        block: ResidualBlock,
        out: Tensor,
        x: Tensor,
        hidden: Tensor,
        beyond: Tensor,
        modulation: Tensor | None,
    ) -> None:
        """Add to `out` what hidden bytes (B, C, h, w) lack where they are `beyond` (B, h, w)."""
        rows = beyond.any(-1).any(0).nonzero()
        # with a neighbour that sees them, and one that these see
        part = slice(max(0, int(rows[0]) - 2), int(rows[-1]) + 3)
        true = F.silu(modulated(block.conv_1(x[:, :, part]), modulation))
        lacking = (true - self._second.value(hidden[:, :, part])) * beyond[:, None, part]
        out[:, :, part] += F.conv2d(lacking.to(x.dtype), block.conv_2.weight, padding=1)

    def _put_right(
        self,
        block: ResidualBlock,
        out: Tensor,
        x: Tensor,
        hidden: Tensor,
        places: Tensor,
        modulation: Tensor | None,
    ) -> None:
        """The same, pixel by pixel, at `places` (n, 3): image, row and column."""
        batch, channels, height, width = x.shape
        taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
        seen = places[:, None] + F.pad(taps, (1, 0))
        inside = ((seen >= 0) & (seen < seen.new_tensor([batch, height, width]))).all(-1)
        index = (torch.where(inside[..., None], seen, 0) * seen.new_tensor([height * width, width, 1])).sum(
            -1
        )

        pixels = x.permute(0, 2, 3, 1).reshape(-1, channels)
        around = (pixels[index] * inside[..., None]).flatten(1)
        conv = block.conv_1
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        true = modulated(F.linear(around, weight, conv.bias)[..., None, None], modulation)[..., 0, 0]
        lacking = F.silu(true) - self._second.value(hidden.permute(0, 2, 3, 1)[tuple(places.t())])

        # a neighbour sees a place through the weight of the opposite side
        onward = block.conv_2.weight.float().flip(2, 3).permute(1, 2, 3, 0).flatten(1)
        shares = (lacking.to(x.dtype).float() @ onward).view(-1, len(taps), channels)[inside]
        reached, which = torch.unique(index[inside], return_inverse=True)
        added = torch.zeros(len(reached), channels).index_add_(0, which, shares)
        results = out.permute(0, 2, 3, 1).view(-1, channels)
        results[reached] = (results[reached].float() + added).to(out.dtype)


class _Int8Convolution:
    """A convolution whose input is u = value / (step * share) + zero, an unsigned byte.

    Args:
        low, high: ends of the range of the values.
        shares: (input channels,) of that range which each channel needs; None: all of it. They go into the weights.
    """

    def __init__(self, conv: nn.Conv2d, low: float, high: float, shares: Tensor | None = None) -> None:
        self._made_of = conv, low, high, shares
        self._step = (high - low) / _LEVELS
        self._zero = round(-low / self._step)
        shares = torch.ones(conv.in_channels) if shares is None else shares
        self._per_step = 1 / (self._step * shares)
        weight = conv.weight.detach().float() * shares[:, None, None]
        # what one of 127 steps is worth for each output channel
        self._weight_steps = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self._weight_zeros = torch.zeros(len(weight), dtype=torch.int32)
        bias = conv.bias
        self._bias = torch.zeros(len(weight)) if bias is None else bias.detach().float()
        self._layout = ([1, 1], [int(side) for side in conv.padding], [1, 1], 1)
        integers = (weight / self._weight_steps[:, None, None, None]).round().to(torch.int8)
        self._packed = torch.ops.onednn.qconv_prepack(
            integers, self._weight_steps, self._step, self._zero, *self._layout, None
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # packed weights cannot be copied: a copy packs its own
        return type(self), self._made_of

    def quantised(self, x: Tensor) -> Tensor:
        """(B, C, h, w) of any floating-point type -> bytes in channels-last memory; what is too large is clipped."""
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(batch * height, width * channels)
        out = torch.empty_like(rows, dtype=torch.int8)
        per_step = self._per_step.repeat(width)
        zero = torch.tensor(_ROUNDING + self._zero)
        count = max(1, _QUANTISED_VALUES // rows.shape[1])
        for some, bytes_ in zip(torch.split(rows, count), torch.split(out, count), strict=True):
            values = torch.addcmul(zero, some.float(), per_step).clamp_(_ROUNDING, _ROUNDING + _LEVELS)
            # torch takes the last byte many times faster for a signed type than for an unsigned one
            bytes_.copy_(values.view(torch.int32))
        return out.view(torch.uint8).view(batch, height, width, channels).permute(0, 3, 1, 2)

    def value(self, quantised: Tensor) -> Tensor:
        """Bytes -> the numbers that they stand for, in float32, where all channels have one range."""
        return (quantised.float() - self._zero) * self._step

    def activated(self, x: Tensor, modulation: Tensor | None, following: "_Int8Convolution") -> Tensor:
        """SiLU of the convolution, scaled and shifted by `modulation` (1, 2 * C), as the bytes `following` takes."""
        steps, bias = self._weight_steps, self._bias
        if modulation is not None:
            scale, shift = modulation[0].float().chunk(2)
            steps, bias = steps * (1 + scale), bias * (1 + scale) + shift
        return self._convolve(x, steps, bias, following._step, following._zero, torch.uint8, "swish")

    def result(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The convolution of bytes as numbers of `dtype`."""
        return self._convolve(x, self._weight_steps, self._bias, 1.0, 0, dtype, "none")

    def _convolve(self, x: Tensor, weight_steps: Tensor, bias: Tensor, *output: Any) -> Tensor:
        """`output`: step, zero and type of what comes out, and the activation before it."""
        weights = self._packed, weight_steps, self._weight_zeros, bias, *self._layout
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(x, self._step, self._zero, *weights, *output, [], "")
        return out


def _beyond(quantised: Tensor, hidden: Tensor) -> Tensor:
    """Where hidden bytes (B, C, h, w) are clipped, or one of the nine that they are made of is: (B, h, w)."""
    found = _clipped(hidden, at_the_top_only=True)
    before = _clipped(quantised)
    if before.any():
        found |= F.max_pool2d(before.float(), 3, stride=1, padding=1).bool()
    return found


def _clipped(quantised: Tensor, at_the_top_only: bool = False) -> Tensor:
    """Pixels with a byte at an end of the range: (B, C, h, w) -> (B, h, w)."""

    def at_an_end(x: Tensor) -> Tensor:
        top = x.amax(-1) == _LEVELS
        return top if at_the_top_only else top | (x.amin(-1) == 0)

    # read in memory order and by rows first, which is many times faster
    pixels = quantised.permute(0, 2, 3, 1)
    found = torch.zeros(pixels.shape[:3], dtype=torch.bool)
    rows = at_an_end(pixels.flatten(2))
    if rows.any():
        found[rows] = at_an_end(pixels[rows])
    return found


def _residual_blocks(network: nn.Module) -> Iterator[tuple[str, ResidualBlock]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, ResidualBlock))


def _agrees_with_float() -> bool:
    """Whether a small block comes out in 8 bits as it does in float32."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        block = ResidualBlock(16)
        x = torch.rand(1, 16, 8, 8) - 0.5
        expected = block(x) - x
        found = Int8Processor(block, torch.tensor(1.0), 4.0)(block, x) - x
    return bool((found - expected).norm() < 0.1 * expected.norm())
