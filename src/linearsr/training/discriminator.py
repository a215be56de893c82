"""The network that tells photos from samples: texture has no formula, so it is learned what it looks like."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from linearsr.runtime.checkpoints import PretrainedModule

DETAIL_GAIN = 8.0
"""Brings what an image has beyond the stem's prediction to the deviation of the image itself. It is bounded there:
where much was lost, light for instance, a photo would be told by that alone, and no texture learned."""
_UNSHUFFLE = 2
_SLOPE = 0.2


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`Discriminator`."""

    channels: int = 64
    """Width of the first level; the others have one and a half times, and twice as many."""


class Judgement(NamedTuple):
    """What a discriminator makes of images, at three sizes: (B, _, H / 2, W / 2), then a half and a quarter of that."""

    logits: list[Tensor]
    """For "a photo", one channel."""
    features: list[Tensor]
    """The maps behind the logits."""


class Discriminator(PretrainedModule):
    """Judges patches of an image at three sizes, knowing the stem's prediction, and with it the degradation.

    The first maps see a few pixels (grain, ringing), the last ones about fifty (hair, leaves, bricks). Spectral norm
    (Miyato et al. 2018) keeps the slope of all layers but the last ones bounded, and with it the generator's gradient.
    """

    config_class = DiscriminatorConfig
    config: DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        widths = [6 * _UNSHUFFLE**2, channels, channels * 3 // 2, channels * 2]
        self.levels = nn.ModuleList()
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if level == 0 else 2
            self.levels.append(
                nn.ModuleList([_conv(before, after, 2 + stride, stride), _conv(after, after, 3)])
            )
        # free to grow: bounded as the rest is, they could not tell a faint mesh from texture
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths[1:])

    def forward(self, image: Tensor, prediction: Tensor) -> Judgement:
        """Judge images (B, 3, H, W) in [-1, 1] beside the stem's prediction of them."""
        x = torch.cat([image, torch.tanh(DETAIL_GAIN * (image - prediction))], dim=1)
        x = F.pixel_unshuffle(x, _UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        judged = Judgement([], [])
        for level, head in zip(self.levels, self.heads, strict=True):
            for conv in cast(nn.ModuleList, level):
                x = F.leaky_relu(conv(x), _SLOPE)
            judged.features.append(x)
            judged.logits.append(head(x))
        return judged


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, kernel, stride=stride, padding=1))
