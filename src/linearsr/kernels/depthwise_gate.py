# ruff: noqa: ANN001, ANN202 - the arguments of a kernel are pointers and numbers, by Triton's own rules
"""The middle of the Mix-FFN in one Triton kernel: depthwise 3x3 convolution of both halves, then value * SiLU(gate).

The plain version writes the convolved hidden layer, reads it, writes the gated half: here the input is read and the
gated half is written.

Shapes: B batch, h w grid of tokens, C channels of the result; the input has 2 C, values first, then gates.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 32, 64
"""Of a block."""


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, out, height, width, channels, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    image = tl.program_id(2).to(tl.int64)
    pixels = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    columns = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = columns < channels
    row, column = pixels // width, pixels % width
    value = tl.zeros((PIXELS, CHANNELS), tl.float32)
    gate = tl.zeros((PIXELS, CHANNELS), tl.float32)
    value += tl.load(bias + columns, known, other=0.0).to(tl.float32)[None, :]
    gate += tl.load(bias + channels + columns, known, other=0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        r, c = row + tap // 3 - 1, column + tap % 3 - 1
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (pixels < height * width)
        place = x + ((image * height + r) * width + c)[:, None] * (2 * channels) + columns[None, :]
        mask = inside[:, None] & known[None, :]
        for_value = tl.load(weight + columns * 9 + tap, known, other=0.0).to(tl.float32)
        for_gate = tl.load(weight + (channels + columns) * 9 + tap, known, other=0.0).to(tl.float32)
        value += tl.load(place, mask, other=0.0).to(tl.float32) * for_value[None, :]
        gate += tl.load(place + channels, mask, other=0.0).to(tl.float32) * for_gate[None, :]
    gated = value * gate * tl.sigmoid(gate)
    target = out + (image * height * width + pixels)[:, None] * channels + columns[None, :]
    tl.store(target, gated.to(out.dtype.element_ty), (pixels < height * width)[:, None] & known[None, :])


def depthwise_gate(x: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Tokens (B, height * width, 2 C), weight (2 C, 1, 3, 3), bias (2 C,) -> (B, height * width, C).

    Sums run in float32; the result has the type of `x`.
    """
    batch, tokens, both = x.shape
    channels = both // 2
    out = torch.empty(batch, tokens, channels, dtype=x.dtype, device=x.device)
    grid: Any = (triton.cdiv(tokens, PIXELS), triton.cdiv(channels, CHANNELS), batch)
    _kernel[grid](
        x.contiguous(),
        weight.contiguous(),
        bias,
        out,
        height,
        width,
        channels,
        PIXELS=PIXELS,
        CHANNELS=CHANNELS,
    )
    return out
