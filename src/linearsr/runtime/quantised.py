"""Weights of convolutions in 8-bit integers on disk: a file of half the size."""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE_SUFFIX = "_scale"
_CONVOLUTION_DIMS = 4
_LEAST_SCALE = 2.0**-24
"""The smallest number above zero in float16."""


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of convolutions in 8-bit integers, for a file of half the size; all else as it is.

    Each kernel, of one input and one output channel, has a scale in float16, its largest magnitude over 127, in
    `NAME_scale`; those of 1x1 share one scale for each output channel. `dequantised` multiplies it back.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim != _CONVOLUTION_DIMS:
            stored[name] = tensor
            continue
        weight = tensor.float()
        shared = (2, 3) if weight[0, 0].numel() > 1 else (1, 2, 3)
        scale = (weight.abs().amax(shared, keepdim=True) / 127).clamp(min=_LEAST_SCALE).half()
        stored[name] = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        stored[name + SCALE_SUFFIX] = scale
    return stored


def dequantised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state with the weights that `quantised` stored, in float32; all else as it is."""
    for name in [name for name in state if name.endswith(SCALE_SUFFIX)]:
        weight = name.removesuffix(SCALE_SUFFIX)
        if weight in state and state[weight].dtype == torch.int8:
            state[weight] = state[weight].float() * state.pop(name).float()
    return state
