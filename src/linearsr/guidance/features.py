"""Visual features of our own tagger as guidance: the output of its network, place by place.

Shapes: B images, G places along one side, L = G * G tokens of C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.own_tagger import OwnTagger, TaggerNetwork, resized_to_square
from linearsr.runtime.checkpoints import PretrainedModule


@dataclass(frozen=True)
class FeatureGuidanceConfig:
    """Settings of `FeatureGuidance`; the first three are those of the tagger."""

    num_tags: int = 1
    """Number V of tags that the tagger knows."""
    num_blocks: int = 13
    """Blocks of the tagger's network."""
    image_size: int = 192
    """Side of the square that a photo is resized to."""
    grid: int = 4
    """Places G along each side, to which the features are averaged."""
    channels: int = 64
    """Channels of a token: the `caption_channels` of the network."""


class FeatureGuidance(PretrainedModule, Guidance):
    """Guidance by the frozen network of a tagger and a learned projection of its features."""

    config_class: ClassVar[type[FeatureGuidanceConfig]] = FeatureGuidanceConfig
    config: FeatureGuidanceConfig
    kind: GuidanceKind = "features"

    network: TaggerNetwork

    def __init__(self, config: FeatureGuidanceConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TaggerNetwork(config.num_tags, config.num_blocks)
        width = self.network.trunk.channels[-1]
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.channels)

    @classmethod
    def of(cls, tagger: OwnTagger, channels: int) -> "FeatureGuidance":
        """Create guidance with `channels` channels from the features of a trained tagger, frozen."""
        sizes = tagger.config
        config = FeatureGuidanceConfig(
            len(sizes.vocabulary), sizes.num_blocks, sizes.image_size, channels=channels
        )
        guidance = cls(config)
        guidance.network.load_state_dict(tagger.network.state_dict())
        guidance.network.requires_grad_(False)
        return guidance

    def forward(self, lr: Tensor, tags: Tensor | None = None) -> GuidanceTokens:
        """Return tokens for LR images (B, 3, h, w) in [-1, 1], of any size."""
        with torch.no_grad():
            seen = self.network.features(resized_to_square(lr, self.config.image_size))
        places = F.adaptive_avg_pool2d(seen.float(), self.config.grid).flatten(2).transpose(1, 2)
        weight = self.projection.weight
        return GuidanceTokens(self.projection(self.norm(places.to(weight.dtype))))

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Return the tokens of `forward`; tags are ignored."""
        tokens: GuidanceTokens = self(lr.to(self.projection.weight.device))
        return tokens
