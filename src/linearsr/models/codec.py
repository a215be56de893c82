"""Codecs: between HR images and the latents that the flow models.

Shape legend: B batch, H W HR size in pixels, C latent channels. Images have values in [-1, 1].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.lr_stem import LRCondition


class Codec(Protocol):
    """What the pipeline and the trainer ask of a codec."""

    @property
    def compression(self) -> int:
        """HR pixels per side of one latent position; H and W must be multiples of it."""

    @property
    def latent_channels(self) -> int:
        """C of the latent."""

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """(B, 3, H, W) -> latent (B, C, H / compression, W / compression), about unit deviation."""

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """Latent -> image (B, 3, H, W) in about [-1, 1]."""


@dataclass(frozen=True)
class ResidualCodecConfig:
    """`ResidualCodec`."""

    compression: int = 8
    """HR pixels per side of one latent position."""


class ResidualCodec(nn.Module):
    """The error of the stem's prediction, in units of its expected deviation, as pixel-unshuffled patches.

    z = unshuffle((HR - prediction) / deviation). It has no weights and loses nothing, so the flow's ceiling is the
    picture itself.
    """

    config_class = ResidualCodecConfig

    def __init__(self, config: ResidualCodecConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def compression(self) -> int:
        return self.config.compression

    @property
    def latent_channels(self) -> int:
        return 3 * self.config.compression**2

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        prediction, deviation = _estimate(condition)
        return F.pixel_unshuffle((image.float() - prediction) / deviation, self.compression)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        prediction, deviation = _estimate(condition)
        return prediction + deviation * F.pixel_shuffle(latent.float(), self.compression)


def _estimate(condition: LRCondition) -> tuple[Tensor, Tensor]:
    if condition.prediction is None or condition.deviation is None:
        raise ValueError("a residual codec needs a stem that predicts the image: use PredictiveStem")
    return condition.prediction.float(), condition.deviation.float()
