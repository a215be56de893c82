"""The trunk's dense blocks in 8-bit integers, for processors that are fast at them (AVX2, VNNI) without AMX.

There a convolution of bytes takes a quarter to a half of the time of one in float32. Every channel has its
own step, found beforehand on photos (`find_ranges`), so a strip of an image gives the same numbers as the
whole. Steps cost nothing: those of the input go into the weights, those of the output into the weights'
scales. The image itself, to which each block adds, stays in floating point.

The convolutions are oneDNN's, called through the operators that torch's own quantisation uses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.rows import Convolution, PerPixel, Rows, beside, on_channels, residual, whole
from linearsr.models.rrdb import BRANCH, SLOPE, DenseBlock

Ranges = dict[str, Tensor]
"""Name of a dense block -> largest magnitude in each input channel of its last convolution, (C,)."""

_ZERO, _LEVELS, _STEPS = 128, 255, 127
"""The byte that stands for 0, the largest byte, and the number of steps in a range."""
_STEPS_WITHOUT_VNNI = 96
"""Steps of a weight without VNNI: two products are added in 16 bits, which would clip large sums at 127."""
_MARGIN = 0.9
"""Ranges are this share of the observed maximum: rare larger values are clipped, all others rounded less."""
_NARROWEST = 1 / 16
"""Least range of a channel, as a share of the widest: a channel silent on all photos may become active."""
_ROUNDING = 1.5 * 2**23
"""A float32 of about this size has no fractional digits, and its last byte counts in ones."""
_MOST_ERROR = 0.1
"""Largest accepted error, as a share of what a block adds to its input."""


def use_int8_(trunk: nn.Module, ranges: Ranges) -> None:
    """Make dense blocks with known ranges compute in 8 bits, on the CPU and where no gradient is needed.

    Raises:
        ValueError: ranges have other channels than their block.
    """
    for name, block in _dense_blocks(trunk):
        if name in ranges:
            channels = block.convolutions[-1].in_channels
            if ranges[name].shape != (channels,):
                raise ValueError(
                    f"8-bit ranges: {name}: has {channels} channels, not {tuple(ranges[name].shape)}: compute them "
                    "with linearsr convert --to int8"
                )
            block.processor = Int8Block(block.convolutions, ranges[name].float())


@contextmanager
def find_ranges(trunk: nn.Module) -> Iterator[Ranges]:
    """Yield ranges, filled in at the end of the context from the images that the trunk draws in it."""
    seen: Ranges = {}

    def watched(name: str, block: DenseBlock) -> Rows:
        def widen(x: Tensor) -> Tensor:
            found = x.abs().amax((0, 2, 3)).float()
            seen[name] = torch.maximum(found, seen.get(name, found))
            return x

        return block.layers(PerPixel(widen))

    blocks = _dense_blocks(trunk)
    own = [block.processor for _, block in blocks]
    ranges: Ranges = {}
    try:
        for name, block in blocks:
            block.processor = partial(watched, name)
        yield ranges
        ranges.update({name: _MARGIN * x.clamp(min=_NARROWEST * float(x.max())) for name, x in seen.items()})
    finally:
        for (_, block), processor in zip(blocks, own, strict=True):
            block.processor = processor


class Int8Block:
    """A `DenseBlock` computed with 8-bit convolutions.

    Args:
        convolutions: those of the block; their weights are copied as integers.
        ranges: largest magnitude in each input channel of the last convolution, (C,).
    """

    def __init__(self, convolutions: list[nn.Conv2d], ranges: Tensor) -> None:
        self._made_of = convolutions, ranges
        *dense, last = convolutions
        steps = ranges / _STEPS
        # the output channels of each convolution follow those that it sees
        self._dense = [
            Int8Convolution(conv, steps[: conv.in_channels], steps[conv.in_channels :][: conv.out_channels])
            for conv in dense
        ]
        self._last = Int8Convolution(last, steps)
        self._per_step = 1 / steps[: dense[0].in_channels, None, None]

    def __reduce__(self) -> tuple[object, ...]:
        # packed weights cannot be copied, so a copy packs its own
        return type(self), self._made_of

    def __call__(self, block: DenseBlock) -> Rows:
        """Return `block` for rows; in floating point off the CPU, in float16, or if gradients are on."""
        weight = block.convolutions[0].weight
        if torch.is_grad_enabled() or weight.device.type != "cpu" or weight.dtype == torch.float16:
            return block.layers()
        entry = PerPixel(lambda x: _as_bytes(x * self._per_step))
        activated = PerPixel(lambda x: _as_bytes(F.leaky_relu(x, SLOPE, inplace=True)))
        dense = [beside(on_channels, conv.rows(), activated) for conv in self._dense]
        end = PerPixel(lambda x: x.to(weight.dtype))
        return residual(entry, *dense, self._last.rows(), end, scale=BRANCH)


class Int8Convolution:
    """A convolution of bytes, each of which stands for (byte - 128) steps of its channel.

    Args:
        steps: step of each input channel, (C,).
        made: step in which each output channel is counted; None: 1 for all.
    """

    def __init__(self, conv: nn.Conv2d, steps: Tensor, made: Tensor | None = None) -> None:
        self._conv = conv
        made = torch.ones(conv.out_channels) if made is None else made
        weight = conv.weight.detach().float() * steps[:, None, None] / made[:, None, None, None]
        bias = conv.bias
        self._bias = torch.zeros(len(weight)) if bias is None else bias.detach().float() / made
        # value of one step of the weights, for each output channel
        most = _STEPS if _has_vnni() else _STEPS_WITHOUT_VNNI
        self._scales = weight.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny) / most
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        integers = (weight / self._scales[:, None, None, None]).round().to(torch.int8)
        layout = [1, 1], [1, 1], [1, 1], 1
        self._packed = torch.ops.onednn.qconv_prepack(integers, self._scales, 1.0, _ZERO, *layout, None)

    def rows(self) -> Rows:
        """Return the convolution for rows of bytes, with results in float32."""
        return Convolution(self._conv, self, beyond=_ZERO)

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        weights = self._packed, self._scales, self._zeros, self._bias
        layout, made = ([1, 1], list(padding), [1, 1], 1), (1.0, 0, torch.float32)
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, _ZERO, *weights, *layout, *made, "none", [], ""
        )
        return out


def _as_bytes(steps: Tensor) -> Tensor:
    """Convert numbers of steps (B, C, h, w), which may be overwritten, to bytes in the same memory order."""
    values = steps.float().add_(_ROUNDING + _ZERO).clamp_(_ROUNDING, _ROUNDING + _LEVELS)
    out = torch.empty_like(values, dtype=torch.int8)
    # torch extracts the last byte many times faster as a signed type than as an unsigned one
    return out.copy_(values.view(torch.int32)).view(torch.uint8)


def _dense_blocks(trunk: nn.Module) -> list[tuple[str, DenseBlock]]:
    return [(name, module) for name, module in trunk.named_modules() if isinstance(module, DenseBlock)]


def are_used(have_ranges: bool, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether a trunk computes in 8 bits by default instead of `dtype`, given ranges for it."""
    return have_ranges and device.type == "cpu" and faster_than(dtype)


def faster_than(dtype: torch.dtype) -> bool:
    """Return whether this processor computes clearly faster in 8 bits than in `dtype`.

    It does with AVX2 compared with float32, and with AVX-512 VNNI compared with bfloat16, unless it has AMX.
    A timed trial would choose differently on a busy machine, and the same command would give other bytes.
    """
    # time of the trunk: 0.36 to 0.45 of float32's with VNNI, 0.47 to 0.7 without; 0.63 to 0.67 of bfloat16's
    faster = {
        torch.float32: torch.cpu._is_avx2_supported(),
        torch.bfloat16: _has_vnni() and not torch.cpu._is_amx_tile_supported(),
    }
    return faster.get(dtype, False) and supported()


def _has_vnni() -> bool:
    """Return whether the processor has AVX-512 VNNI, not disabled by ATEN_CPU_CAPABILITY=avx2."""
    return torch.cpu._is_vnni_supported() and torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def supported() -> bool:
    """Return whether this torch has 8-bit convolutions and a block computed with them agrees with float32."""
    # no inference mode: without AVX-512, bfloat16 convolutions refuse weights that were made in it
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        block, x = DenseBlock(64, 32), torch.rand(1, 64, 16, 64) - 0.5
        x = x.contiguous(memory_format=torch.channels_last)
        with find_ranges(block) as ranges:
            expected = whole(block.rows(), x) - x
        try:
            use_int8_(block, ranges)
            made = whole(block.rows(), x) - x
        except (RuntimeError, AttributeError, TypeError):
            return False  # operators of another torch, with other arguments
    return bool((made - expected).norm() < _MOST_ERROR * expected.norm())
