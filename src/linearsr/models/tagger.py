"""A network that says which of the known tags a low-resolution photo has, by what EfficientNet-Lite0 sees in it.

Shapes: B images, S side of the square it looks at, V tags, C channels of the last map, P pooled features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.lite0 import Lite0

_LEAST_VARIANCE = 1e-4
"""Under the root of the deviation."""


class TaggerNetwork(nn.Module):
    """A linear layer on mean and deviation of the trunk's last map, and of the last one of its stage before.

    Args:
        num_tags: V.
        num_blocks: of the trunk, at least 2.
    """

    def __init__(self, num_tags: int, num_blocks: int) -> None:
        super().__init__()
        self.trunk = Lite0(num_blocks)
        self.head = nn.Linear(2 * sum(self.trunk.channels[-2:]), num_tags)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> what is seen place by place, (B, C, ., .)."""
        return self._maps(images)[-1]

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.trunk(images.to(self.trunk.stem.conv.weight.dtype))
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> what is seen over the whole picture, (B, P) in float32."""
        maps = [x.float() for x in self._maps(images)[-2:]]
        deviations = [(x.var((2, 3), correction=0) + _LEAST_VARIANCE).sqrt() for x in maps]
        return torch.cat([*(x.mean((2, 3)) for x in maps), *deviations], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> logits (B, V) in float32."""
        logits: Tensor = self.head(self.pooled(images).to(self.head.weight.dtype))
        return logits.float()


def resized_to_square(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, h, w) of any size -> (B, 3, side, side), antialiased; the aspect ratio is given up."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).to(images.dtype)
