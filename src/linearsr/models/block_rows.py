"""Residual blocks, and the way out of a transformer that is made of them, over strips of rows.

Shape legend: C channels, n rows of an image of the width w, which are a tensor (1, C, n, w).
"""

from collections.abc import Iterable
from functools import partial
from typing import cast

import torch.nn.functional as F
from torch import Tensor

from linearsr.models.detail_head import FINE, DetailHead
from linearsr.models.lr_stem import ResidualBlock, modulated
from linearsr.models.rows import Chain, Convolution, Grouped, PerPixel, Rows, Window, residual

_BLOCK_REACH = 2


def residual_block_rows(block: ResidualBlock, modulation: Tensor | None = None) -> Rows:
    """A block with its modulation (1, 2 * C); one with a processor computes the rows between strips twice."""
    if block.processor is not None:
        return Window(partial(block, modulation=modulation), _BLOCK_REACH)
    between = PerPixel(lambda x: F.silu(modulated(x, modulation)))
    return residual(Convolution(block.conv_1), between, Convolution(block.conv_2))


def detail_head_rows(head: DetailHead) -> Rows:
    """Tokens and LR features, joined on channels, (1, ., n, w) -> rows of the latent."""
    blocks = cast(Iterable[ResidualBlock], head.blocks)
    return Chain(
        PerPixel(head.spread),
        Convolution(head.conv_in),
        *map(residual_block_rows, blocks),
        Convolution(head.conv_out),
        Grouped(FINE),
        PerPixel(head.gathered),
    )
