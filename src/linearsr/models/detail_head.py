"""The way out of a transformer whose latent is made of pixels: convolutions in which neighbouring patches meet.

A linear layer makes each token's patch by itself, and what is invented there breaks off at its border, as a grid. Here
tokens are spread over a finer grid, joined with the LR features on it, and go through residual blocks.

Shapes: B batch, h w tokens' grid, C channels of a latent (3 * (8 HR pixels)**2 for the residual codec).
"""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.layout import joined
from linearsr.models.lr_stem import ResidualBlock

FINE = 2
"""Cells of the finer grid on a token's side: for the default model's patches the grid of the LR image."""
_COLOURS = 3


class DetailHead(nn.Module):
    """Tokens and LR features to a latent of pixel-unshuffled patches.

    The last layer starts at zero: nothing is added to the stem's prediction until it is trained.
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
        """Rows of the tokens' grid, above and below, that a row of the result depends on."""
        return -(-(2 + 2 * len(self.blocks)) // FINE)

    def forward(self, tokens: Tensor, lr_features: Tensor) -> Tensor:
        """(B, channels * FINE**2, h, w) and (B, lr_channels, h, w) -> latent (B, C, h, w)."""
        x = self.conv_in(self.spread(joined(tokens, lr_features.to(tokens.dtype))))
        for block in self.blocks:
            x = block(x)
        return self.gathered(self.conv_out(x))

    def spread(self, x: Tensor) -> Tensor:
        """Tokens and LR features, joined on channels, on the finer grid."""
        return F.pixel_shuffle(x, FINE).contiguous(memory_format=torch.channels_last)

    def gathered(self, x: Tensor) -> Tensor:
        """What the last layer made on the finer grid, as a latent."""
        return F.pixel_unshuffle(F.pixel_shuffle(x, self.patch // FINE), self.patch)
