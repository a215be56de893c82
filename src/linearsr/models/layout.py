"""How images lie in memory: a pixel's channels beside each other, as a token's are."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def joined(*images: Tensor) -> Tensor:
    """Images (B, C_i, h, w) of one type, joined on channels, in channels-last memory: (B, sum of C_i, h, w)."""
    pixels = [image.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1) for image in images]
    # told by its strides, an image alone in its batch may be of either layout, and `cat` on channels takes the other
    return torch.cat(pixels, dim=-1).permute(0, 3, 1, 2)


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of tokens (..., C): one product, without leaving the token layout."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)
