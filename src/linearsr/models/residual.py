"""Residual blocks, and an output head for transformers that is made of them and joins neighbouring patches.

A linear output layer makes each token's patch by itself, so generated detail breaks off at its border and
shows as a grid. A `DetailHead` spreads tokens over a finer grid, joins them with the LR features on it, and
applies residual blocks.

Shapes: B batch, h w grid of the tokens, C channels of a latent (3 * (8 HR pixels)**2 for the residual codec).
"""

from collections.abc import Iterable
from math import isqrt
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.rows import Chain, Convolution, Grouped, PerPixel, Rows, joined, residual, whole

FINE = 2
"""Cells of the finer grid per side of a token; for the default model's patches, the grid of the LR image."""
_COLOURS = 3


class ResidualBlock(nn.Module):
    """x + conv(SiLU(conv(x))); the branch starts small, so a deep stack starts near the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        for conv, gain in ((self.conv_1, 1.0), (self.conv_2, 0.1)):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                conv.weight.mul_(gain)

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """Map (B, C, h, w) to the same shape.

        `modulation` (B, 2 * C) holds scale and shift between the convolutions.
        """
        return whole(self.rows(modulation), x)

    def rows(self, modulation: Tensor | None = None) -> Rows:
        """Return the block for rows."""
        between = PerPixel(lambda x: F.silu(modulated(x, modulation)))
        return residual(Convolution(self.conv_1), between, Convolution(self.conv_2))


def modulated(hidden: Tensor, modulation: Tensor | None) -> Tensor:
    """Apply scale and shift, `modulation` (B, 2 * C), to hidden values (B, C, h, w); None: no change."""
    if modulation is None:
        return hidden
    scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
    return hidden * (1 + scale) + shift


class DetailHead(nn.Module):
    """Head from tokens and LR features to a latent of pixel-unshuffled patches.

    The last layer starts at zero: nothing is added to the stem's prediction until the head is trained.
    """

    def __init__(self, channels: int, lr_channels: int, num_blocks: int, out_channels: int) -> None:
        super().__init__()
        self.patch = isqrt(out_channels // _COLOURS)
        self.conv_in = nn.Conv2d(channels + lr_channels // FINE**2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(num_blocks))
        self.conv_out = nn.Conv2d(channels, out_channels // FINE**2, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    @property
    def reach(self) -> int:
        """Rows of the token grid, above and below, on which a row of the result depends."""
        return -(-(2 + 2 * len(self.blocks)) // FINE)

    def forward(self, tokens: Tensor, lr_features: Tensor) -> Tensor:
        """Map (B, channels * FINE**2, h, w) and (B, lr_channels, h, w) to a latent (B, C, h, w)."""
        return whole(self.rows(), joined(tokens, lr_features.to(tokens.dtype)))

    def rows(self) -> Rows:
        """Return the head for rows: tokens and LR features, joined on channels -> latent."""
        blocks = cast(Iterable[ResidualBlock], self.blocks)
        return Chain(
            PerPixel(lambda x: F.pixel_shuffle(x, FINE).contiguous(memory_format=torch.channels_last)),
            Convolution(self.conv_in),
            *(block.rows() for block in blocks),
            Convolution(self.conv_out),
            Grouped(FINE),
            PerPixel(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, self.patch // FINE), self.patch)),
        )
