"""The LR condition: what the network sees of the low-resolution image.

Shape legend: B batch, h w LR size in pixels, C channels. Images have values in [-1, 1].
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.residual import ResidualBlock
from linearsr.models.rows import (
    Chain,
    Convolution,
    Grouped,
    Joined,
    PerPixel,
    Rows,
    StridedConv2d,
    Window,
    layers_of,
    on_channels,
    residual,
    whole,
)
from linearsr.models.strided_stem import LRCondition, StridedStem, StridedStemConfig
from linearsr.runtime.checkpoints import PretrainedModule
from linearsr.runtime.devices import widest_dtype

__all__ = ["LRCondition", "PredictiveStem", "StridedStem", "StridedStemConfig"]

DETAIL_GAIN = 16.0
"""Factor that brings local detail, the subject of super-resolution, to the deviation of the image itself."""
_DETAIL_REACH, _RESAMPLING_REACH = 2, 4


@dataclass(frozen=True)
class PredictiveStemConfig:
    """Settings of a `PredictiveStem`, the small model's convolutional base."""

    scale: int = 4
    """HR size over LR size."""
    channels: int = 64
    """Channels of the residual blocks."""
    num_blocks: int = 12
    """Residual blocks on the LR grid."""
    summary_channels: int = 0
    """Channels of a summary of the whole image, which tells blocks its degradation; 0: no summary."""
    patch: int = 2
    """LR pixels per side of one latent token: features are unshuffled by it."""
    max_deviation: float = 0.15
    """Largest expected error: a larger one is an error of the head, and would make leftover noise visible."""
    min_deviation: float = 0.01
    """Smallest expected error, in units of the [-1, 1] range; keeps the residual's scale away from zero."""

    def __post_init__(self) -> None:
        least_one = "scale", "channels", "patch"
        for name in (*least_one, "num_blocks", "summary_channels"):
            bound = int(name in least_one)
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise ValueError(f"{name} {value!r}: must be a whole number of at least {bound}")
        if not 0 < self.min_deviation < self.max_deviation:
            raise ValueError("min_deviation must be above 0 and below max_deviation")


class ImageSummary(nn.Module):
    """One vector for the whole image, from which every block gets a scale and a shift for its channels.

    Blur, noise and compression are much the same all over an image, but hard to recognise from a few pixels.
    The scales and shifts start at zero, so a summary can be added to a trained stem.
    """

    def __init__(self, channels: int, summary_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            StridedConv2d(channels, summary_channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(summary_channels, summary_channels, 3, padding=1),
            nn.SiLU(),
        )
        self.to_modulation = nn.Linear(summary_channels, num_blocks * 2 * channels)
        nn.init.zeros_(self.to_modulation.weight)
        nn.init.zeros_(self.to_modulation.bias)

    def modulation(self, mean: Tensor) -> Tensor:
        """Map means (B, summary_channels) to scales and shifts (B, num_blocks * 2 * C) in [-1, 1].

        Only images unlike any in training exceed that range; each block would then amplify the one before.
        """
        modulation: Tensor = self.to_modulation(mean)
        return modulation.clamp(-1, 1)

    def mean(self, x: Tensor) -> Tensor:
        """Compute the vector itself: (B, C, h, w) -> (B, summary_channels)."""
        mean: Tensor = self.layers(x).mean((2, 3), dtype=torch.float32).to(x.dtype)
        return mean


class PredictiveStem(PretrainedModule):
    """A convolutional super-resolver on the LR grid whose features condition the flow.

    It predicts the HR image as bicubic upscaling plus a learned residual, and also the expected deviation of
    that prediction, so that the flow can model the error in units of what is expected at each place: nothing
    to add in a clear sky, much in foliage.

    By rows: the output of `survey` is summed over the image. From that sum and the LR rows, `rows` makes what
    is kept on the latent grid: the channels of the features, then those from which `estimate` makes the
    prediction (`kept_channels`). An estimate is right except for `margin` LR rows at either end, where
    neighbours are missing.
    """

    config_class = PredictiveStemConfig
    config: PredictiveStemConfig

    def __init__(self, config: PredictiveStemConfig) -> None:
        super().__init__()
        self.config = config
        width, scale = config.channels, config.scale
        self.conv_in = nn.Conv2d(6, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(config.num_blocks))
        self.summary: ImageSummary | None = None
        if config.summary_channels:
            self.summary = ImageSummary(width, config.summary_channels, config.num_blocks)
        self.conv_out = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.deviation_head = nn.Sequential(
            nn.Conv2d(width, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )
        # the flow needs its condition at unit deviation per channel; the statistics are learned with the stem
        self.feature_norm = nn.BatchNorm2d(width, affine=False, momentum=0.01)
        nn.init.kaiming_normal_(self.conv_in.weight)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.deviation_head[-1].bias, -3.0)  # type: ignore[arg-type]

    @property
    def multiple_of(self) -> int:
        """LR sides must be multiples of this."""
        return int(self.config.patch)

    margin = _RESAMPLING_REACH

    @property
    def kept_channels(self) -> tuple[int, int]:
        """Numbers of kept channels: those of the features, and those of the estimate."""
        return self.config.channels * self.config.patch**2, (
            3 * self.config.scale**2 + 1
        ) * self.config.patch**2

    def forward(self, lr: Tensor) -> LRCondition:
        """Map LR (B, 3, h, w) to features (B, channels * patch**2, h / patch, w / patch) and estimate."""
        x = whole(self._entry(), lr)
        x = whole(self._body(None if self.summary is None else self.summary.mean(x)), x)
        # one by one: joined on channels, the detached features would require gradients
        features, learned, log_deviation = (whole(head, x) for head in self._heads())
        features = F.pixel_unshuffle(features, self.config.patch)
        return self._estimate(lr, learned, log_deviation)._replace(features=features)

    def survey(self) -> Rows | None:
        """Return the part whose output is summed over the whole image before `rows` can begin; None: none."""
        return None if self.summary is None else Chain(self._entry(), *layers_of(self.summary.layers))

    def rows(self, total: Tensor | None = None, size: tuple[int, int] = (0, 0)) -> Rows:
        """Return the part from LR rows in [-1, 1] to kept rows.

        Args:
            total: sum (B, .) of the output of `survey` over the image; None: there is no survey.
            size: height and width of the LR image.
        """
        mean = None
        if self.summary is not None and total is not None:
            mean = total / (-(-size[0] // 2) * -(-size[1] // 2))
            mean = mean.to(self.summary.to_modulation.weight)
        patch, heads = self.config.patch, Joined(on_channels, *self._heads())
        kept = Grouped(patch), PerPixel(lambda x: F.pixel_unshuffle(x, patch))
        return Chain(self._entry(), self._body(mean), heads, *kept)

    def seen(self, lr: Tensor) -> Tensor:
        """Return the input of the first convolution for an LR image: (B, 3, h, w) -> (B, 6, h, w)."""
        # detail is the difference from the 5x5 mean, which at the border is over the existing pixels only
        detail = lr - F.avg_pool2d(lr, 5, stride=1, padding=2, count_include_pad=False)
        x = torch.cat([lr, DETAIL_GAIN * detail], dim=1)
        return x.to(self.conv_in.weight.dtype, memory_format=torch.channels_last)

    def estimate(self, lr: Tensor, kept: Tensor) -> LRCondition:
        """Compute prediction and deviation, without features, from LR rows and kept rows of the estimate."""
        kept = F.pixel_shuffle(kept, self.config.patch)
        return self._estimate(lr, kept[:, :-1], kept[:, -1:])

    def _estimate(self, lr: Tensor, learned: Tensor, log_deviation: Tensor) -> LRCondition:
        scale = self.config.scale
        bicubic = F.interpolate(lr.float(), scale_factor=scale, mode="bicubic", antialias=True)
        prediction = bicubic + F.pixel_shuffle(learned.float(), scale)
        # values that fill no whole vector of the processor are rounded differently, which float64 hides: so a
        # strip gives the same result as the whole image
        deviation = F.softplus(log_deviation.to(widest_dtype(log_deviation.device))).float()
        deviation = F.interpolate(deviation, scale_factor=scale, mode="bilinear")
        deviation = (deviation + self.config.min_deviation).clamp(max=self.config.max_deviation)
        return LRCondition(lr.new_empty(0), prediction, deviation)

    def _entry(self) -> Rows:
        return Chain(Window(self.seen, _DETAIL_REACH), Convolution(self.conv_in))

    def _body(self, mean: Tensor | None) -> Rows:
        """Return the residual blocks, modulated by `mean` (B, summary_channels) of the summary, if any."""
        blocks = list(cast(Iterable[ResidualBlock], self.blocks))
        modulations: list[Tensor | None] = [None] * len(blocks)
        if mean is not None and self.summary is not None and blocks:
            modulations = list(self.summary.modulation(mean).chunk(len(blocks), dim=1))
        return residual(*(block.rows(m) for block, m in zip(blocks, modulations, strict=True)))

    def _heads(self) -> list[Rows]:
        """Return the heads: features, and learned detail and log-deviation for the estimate."""
        # features and deviation must not train the blocks, which belong to the prediction
        features = PerPixel(lambda x: self.feature_norm(x.detach()))
        deviation = Chain(PerPixel(Tensor.detach), *layers_of(self.deviation_head))
        return [features, Convolution(self.conv_out), deviation]

    def grown(self, **changes: Any) -> "PredictiveStem":
        """Return a larger stem that computes the same as this one until it is trained further.

        `changes`: more `num_blocks`, or `summary_channels` if there are none.

        Raises:
            ValueError: changes after which the weights would not fit.
        """
        own, grown = self.config, replace(self.config, **changes)
        kept = replace(grown, num_blocks=own.num_blocks, summary_channels=own.summary_channels)
        if kept != own or grown.num_blocks < own.num_blocks:
            raise ValueError("a trained stem can only be given more num_blocks, and summary_channels")
        if own.summary_channels and grown != own:
            raise ValueError(
                "a trained stem that has a summary cannot grow: the summary is for its own blocks"
            )
        stem = PredictiveStem(grown)
        stem.load_state_dict(self.state_dict(), strict=False)
        for block in list(stem.blocks)[own.num_blocks :]:
            nn.init.zeros_(cast(ResidualBlock, block).conv_2.weight)
        return stem


LRStem = PredictiveStem | StridedStem
