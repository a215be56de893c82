"""Residual blocks in 8-bit integers, on processors that multiply them fast (AVX-512 VNNI).

A product of 8-bit numbers takes a half of the time of one in bfloat16 there, a quarter of one in float32. Weights
have a scale for each output channel. Activations have one range for each convolution, found beforehand on photos
(`find_ranges`): so a strip of an image gives the same bits as the whole. An image that leaves a range is not clipped:
the block then computes in its own floating-point type.

The convolutions are oneDNN's, through the operators that torch's own quantisation uses.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from linearsr.models.lr_stem import ResidualBlock

Ranges = dict[str, float]
"""Name of a convolution -> the largest magnitude that goes into it."""

MARGIN = 1.25
"""Ranges are this much wider than what was seen."""
_CONVOLUTIONS = "conv_1", "conv_2"
_SILU_LEAST = -0.2785
_LEVELS = 255
_QUANTISED_ROWS = 16
"""Rows that are turned to integers at a time, so that the steps between stay in the cache."""


@cache
def supported() -> bool:
    """Whether this processor and this torch have fast 8-bit convolutions."""
    has_vnni: Callable[[], bool] = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    try:
        return has_vnni() and _agrees_with_float()
    except (RuntimeError, AttributeError, TypeError):
        return False  # operators of another torch, with other arguments


def use_int8_(network: nn.Module, ranges: Mapping[str, float], prefix: str = "") -> None:
    """Replace the residual blocks of a network whose ranges are known, by their names behind `prefix`.

    Their floating-point weights stay where they are, for gradients, for other devices and to be saved.
    """
    for name, block in list(_residual_blocks(network)):
        first, second = (ranges.get(f"{prefix}{name}.{conv}") for conv in _CONVOLUTIONS)
        if first is not None and second is not None:
            parent, _, own = name.rpartition(".")
            network.get_submodule(parent).add_module(own, Int8ResidualBlock(block, first, second))


@contextmanager
def find_ranges(network: nn.Module) -> Iterator[Ranges]:
    """Within the context, what is computed widens the ranges that are given."""
    ranges: Ranges = {}

    def see(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        ranges[name] = max(ranges.get(name, 0.0), MARGIN * float(inputs[0].abs().max()))

    hooks = [
        block.get_submodule(conv).register_forward_pre_hook(partial(see, f"{name}.{conv}"))
        for name, block in _residual_blocks(network)
        for conv in _CONVOLUTIONS
    ]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


class Int8ResidualBlock(ResidualBlock):
    """`ResidualBlock` with 8-bit convolutions where no gradient is needed, on the CPU.

    Args:
        block: its convolutions are taken over, not copied.
        input_range: largest magnitude of an input.
        hidden_range: largest magnitude between the convolutions, behind the SiLU.
    """

    def __init__(self, block: ResidualBlock, input_range: float, hidden_range: float) -> None:
        nn.Module.__init__(self)
        self.conv_1, self.conv_2 = block.conv_1, block.conv_2
        self._first = _Int8Convolution(self.conv_1, -input_range, input_range)
        self._second = _Int8Convolution(self.conv_2, _SILU_LEAST, hidden_range)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """As `ResidualBlock.forward`."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return super().forward(x, modulation)
        if modulation is not None and len(x) > 1:
            # the modulation is folded into the weights' scales, and so is one for all images of a call
            each = zip(torch.split(x, 1), torch.split(modulation, 1), strict=True)
            return torch.cat([self.forward(*image) for image in each])
        quantised = self._first.quantised(x)
        if _leaves_range(quantised):
            return super().forward(x, modulation)
        hidden = self._first.activated(quantised, modulation, self._second)
        if _leaves_range(hidden, at_the_top_only=True):
            return super().forward(x, modulation)
        return self._second.result(hidden, x.dtype).add_(x)


class _Int8Convolution:
    """A convolution whose input is u = value / step + zero, an unsigned byte."""

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        self._made_of = conv, low, high
        self._step = (high - low) / _LEVELS
        self._zero = round(-low / self._step)
        weight = conv.weight.detach().float()
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
        out = torch.empty_like(x, dtype=torch.uint8, memory_format=torch.channels_last)
        middle = torch.tensor(float(self._zero - 128), dtype=torch.float32)
        for rows, into in zip(
            torch.split(x, _QUANTISED_ROWS, 2), torch.split(out, _QUANTISED_ROWS, 2), strict=True
        ):
            signed = torch.add(middle, rows.float(), alpha=1 / self._step).round_().clamp_(-128, 127)
            # torch converts to signed bytes many times faster than to unsigned ones
            into.copy_(signed.to(torch.int8).view(torch.uint8).bitwise_xor_(128))
        return out

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

    def _convolve(
        self,
        x: Tensor,
        weight_steps: Tensor,
        bias: Tensor,
        step: float,
        zero: int,
        dtype: torch.dtype,
        activation: str,
    ) -> Tensor:
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x,
            self._step,
            self._zero,
            self._packed,
            weight_steps,
            self._weight_zeros,
            bias,
            *self._layout,
            step,
            zero,
            dtype,
            activation,
            [],
            "",
        )
        return out


def _leaves_range(quantised: Tensor, at_the_top_only: bool = False) -> bool:
    # read in memory order, which is many times faster
    values = quantised.permute(0, 2, 3, 1)
    if at_the_top_only:
        return bool(values.amax() == _LEVELS)
    low, high = values.aminmax()
    return bool(low == 0) or bool(high == _LEVELS)


def _residual_blocks(network: nn.Module) -> Iterator[tuple[str, ResidualBlock]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, ResidualBlock))


def _agrees_with_float() -> bool:
    """Whether a small block comes out in 8 bits as it does in float32."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        block = ResidualBlock(16)
        x = torch.rand(1, 16, 8, 8) - 0.5
        expected = block(x) - x
        found = Int8ResidualBlock(block, 1.0, 4.0)(x) - x
    return bool((found - expected).norm() < 0.1 * expected.norm())
