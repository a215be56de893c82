"""A small convolutional network that says which of the known tags a low-resolution photo has.

Shapes: B images, h w their size in pixels, S side of the square it looks at, V tags, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.lr_stem import local_detail
from linearsr.models.rows import StridedConv2d

_DETAIL_GAIN = 4.0
_RARE = -3.0
"""Logit that the head begins with: a photo has few of the tags."""
_LEAST_VARIANCE = 1e-4
"""Under the root of the deviation, whose gradient has no bound at zero."""


class ResidualStage(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut as in ResNet-D (arXiv 1812.01187), with which it begins."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm_2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True),
                nn.Conv2d(inputs, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, C, ceil(h / stride), ceil(w / stride))."""
        branch = self.norm_2(self.conv_2(F.relu(self.norm_1(self.conv_1(x)))))
        return F.relu(self.shortcut(x) + branch)


class TaggerNetwork(nn.Module):
    """A ResNet on the image and its local detail; what it says of a picture is mean and deviation of its features.

    The deviation tells textures apart, which is most of what can be learned from a few hundred photos.

    Args:
        num_tags: V.
        channels: width of the last stages, a multiple of 4.
        num_stages: residual stages, at least 2; each of the first two halves the sides.
    """

    def __init__(self, num_tags: int, channels: int, num_stages: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.conv_in = StridedConv2d(6, quarter, 3, stride=2, padding=1, bias=False)
        self.norm_in = nn.BatchNorm2d(quarter)
        self.stages = nn.Sequential(
            ResidualStage(quarter, half, 2),
            ResidualStage(half, channels, 2),
            *(ResidualStage(channels, channels, 1) for _ in range(num_stages - 2)),
        )
        self.norm_out = nn.BatchNorm1d(2 * channels)
        self.head = nn.Linear(2 * channels, num_tags)
        nn.init.constant_(self.head.bias, _RARE)

    @property
    def pooled_features(self) -> int:
        """How many numbers the head sees of a picture."""
        return self.head.in_features

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> what is seen place by place, (B, C, ceil(S / 8), ceil(S / 8))."""
        x = torch.cat([images, _DETAIL_GAIN * local_detail(images)], dim=1)
        x = self.conv_in(x.to(self.conv_in.weight.dtype))
        seen: Tensor = self.stages(F.relu(self.norm_in(x)))
        return seen

    def forward(self, images: Tensor, gains: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] -> logits (B, V) in float32.

        Args:
            images: of any side S.
            gains: (B, `pooled_features`), by which the pooled features are multiplied: dropout, in training.
        """
        x = self.features(images).float()
        deviation = (x.var((2, 3), correction=0) + _LEAST_VARIANCE).sqrt()
        pooled = torch.cat([x.mean((2, 3)), deviation], dim=1)
        normed = self.norm_out(pooled.to(self.norm_out.weight.dtype))
        logits: Tensor = self.head(normed if gains is None else normed * gains)
        return logits.float()


def resized_to_square(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, h, w) of any size -> (B, 3, side, side), antialiased; the aspect ratio is given up."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).to(images.dtype)
