"""The paper's LR stem, and the condition that every stem returns for an LR image.

Shape legend: B batch, h w LR size in pixels, C channels. Images have values in [-1, 1].
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.rows import Chain, PerPixel, Rows, StridedConv2d, layers_of, whole
from linearsr.runtime.checkpoints import PretrainedModule


class LRCondition(NamedTuple):
    """The output of a stem for an LR image."""

    features: Tensor
    """Features (B, C, h', w') on the latent grid; concatenated with the noisy latent on channels."""
    prediction: Tensor | None = None
    """The stem's own estimate of the HR image, (B, 3, H, W) in about [-1, 1]; None: it makes none."""
    deviation: Tensor | None = None
    """Expected error of that estimate per pixel, (B, 1, H, W), positive."""


@dataclass(frozen=True)
class StridedStemConfig:
    """Settings of a `StridedStem`, the paper's E_conv."""

    scale: int = 4
    """HR size over LR size."""
    channels: int = 32
    """Width of every layer and of the result."""
    num_layers: int = 3
    """Strided layers; the latent grid is 2**num_layers times smaller than the LR image."""


class StridedStem(PretrainedModule):
    """Strided 3x3 convolutions with SiLU from the LR image to the latent grid (LinearSR, section 3: E_conv).

    Three layers take an LR image to the grid of a 32x autoencoder at x4 super-resolution: 256 px -> 32.
    """

    config_class = StridedStemConfig
    config: StridedStemConfig

    def __init__(self, config: StridedStemConfig) -> None:
        super().__init__()
        self.config = config
        widths = [3] + [config.channels] * config.num_layers
        self.layers = nn.ModuleList(
            StridedConv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )

    @property
    def multiple_of(self) -> int:
        """LR sides must be multiples of this."""
        return int(2**self.config.num_layers)

    margin = 0

    @property
    def kept_channels(self) -> tuple[int, int]:
        """See `PredictiveStem`."""
        return self.config.channels, 0

    def forward(self, lr: Tensor) -> LRCondition:
        """Map LR (B, 3, h, w) to features (B, C, h / 2**num_layers, w / 2**num_layers)."""
        return LRCondition(whole(self.rows(), lr))

    def survey(self) -> Rows | None:
        """See `PredictiveStem`."""
        return None

    def rows(self, total: Tensor | None = None, size: tuple[int, int] = (0, 0)) -> Rows:
        """See `PredictiveStem`."""
        dtype = self.layers[0].get_parameter("weight").dtype
        pairs = [part for layer in layers_of(self.layers) for part in (layer, PerPixel(F.silu))]
        return Chain(PerPixel(lambda lr: lr.to(dtype)), *pairs)

    def estimate(self, lr: Tensor, kept: Tensor) -> LRCondition:
        """Return an empty condition: this stem makes no estimate."""
        return LRCondition(lr.new_empty(0))
