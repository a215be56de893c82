"""Triton kernels for CUDA: what the plain versions in `models/` compute, with one read of their inputs.

`LINEARSR_KERNELS=0` turns them off. They are for inference: where gradients are needed the plain versions are used.
"""

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

VARIABLE = "LINEARSR_KERNELS"


@cache
def installed() -> bool:
    """Whether Triton is there."""
    return importlib.util.find_spec("triton") is not None


def usable(*tensors: Tensor) -> bool:
    """Whether kernels may take these tensors: on CUDA, no gradients wanted, Triton installed and not turned off.

    Not inside `torch.compile`, which fuses the plain versions by itself.
    """
    return not torch.compiler.is_compiling() and (
        all(tensor.is_cuda for tensor in tensors)
        and not torch.is_grad_enabled()
        and os.environ.get(VARIABLE, "1") != "0"
        and installed()
    )
