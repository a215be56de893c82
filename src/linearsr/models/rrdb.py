"""The trunk: residual-in-residual dense blocks on the LR grid that draw the HR image without any step.

RRDBNet (ESRGAN, Wang et al. 2018; Real-ESRGAN, Wang et al. 2021), with the layout and the names of its public
checkpoints, so that their weights load. It is written only for rows that flow through it: a whole image is
one strip.

Shape legend: B batch, C channels, h w LR size in pixels. Images have values in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.rows import (
    Chain,
    Convolution,
    Cropped,
    Extended,
    InPieces,
    PerPixel,
    Rows,
    beside,
    on_channels,
    residual,
    whole,
)
from linearsr.runtime.checkpoints import PretrainedModule

SLOPE = 0.2
"""Negative slope of the leaky ReLUs."""
BRANCH = 0.2
"""Scale of what a dense block, or a group of three, adds to its input."""
_BORDER = 4
"""LR pixels that are mirrored on every side: with zeros there, edges would be dark and crooked."""
_BODY_PIXELS, ENLARGED_PIXELS = 2**18, 2**14
"""LR pixels processed at a time by a block, and by everything after the blocks."""
_CONVOLUTIONS = 5
"""Number of convolutions in a dense block."""


@dataclass(frozen=True)
class RRDBNetConfig:
    """Settings of an `RRDBNet`."""

    channels: int = 64
    """Channels between the blocks."""
    growth_channels: int = 32
    """Channels that each convolution of a dense block adds."""
    num_blocks: int = 6
    """Residual-in-residual dense blocks, of three dense blocks each."""

    def __post_init__(self) -> None:
        for name in ("channels", "growth_channels", "num_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} {value!r}: must be a whole number of at least 1")


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees the outputs of all before it; x + 0.2 times the last output."""

    processor: Callable[["DenseBlock"], Rows] | None = None
    """Makes the block for rows instead of `layers`; None: `layers` does."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        for i in range(_CONVOLUTIONS):
            made = channels if i == _CONVOLUTIONS - 1 else growth_channels
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels + i * growth_channels, made, 3, padding=1))

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The convolutions of the block, in order."""
        return [conv for conv in self.children() if isinstance(conv, nn.Conv2d)]

    def rows(self) -> Rows:
        """Return the block for rows, (B, C, n, w) -> the same shape, made by `processor` if it is set."""
        return self.layers() if self.processor is None else self.processor(self)

    def layers(self, *before_last: Rows) -> Rows:
        """Return the block in floating point, with the parts `before_last` before its last convolution."""
        *dense, last = self.convolutions
        seen = [beside(on_channels, Convolution(conv), PerPixel(_act)) for conv in dense]
        return residual(*seen, *before_last, Convolution(last), scale=BRANCH)


class RRDB(nn.Module):
    """Three dense blocks in sequence; x + 0.2 times their output."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        for i in range(3):
            self.add_module(f"rdb{i + 1}", DenseBlock(channels, growth_channels))

    def rows(self) -> Rows:
        """Return the blocks for rows, (B, C, n, w) -> the same shape."""
        blocks = [block.rows() for block in self.children() if isinstance(block, DenseBlock)]
        return residual(*blocks, scale=BRANCH)


class RRDBNet(PretrainedModule):
    """Residual-in-residual dense blocks, then two enlargements by 2, each followed by a convolution."""

    config_class = RRDBNetConfig
    config: RRDBNetConfig
    scale = 4
    """HR size over LR size."""

    def __init__(self, config: RRDBNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(RRDB(width, config.growth_channels) for _ in range(config.num_blocks))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def macs_per_pixel(self) -> int:
        """Multiply-accumulates per LR pixel."""
        weights = {name: parameter.numel() for name, parameter in self.named_parameters()}
        enlarged = {"conv_up1": 4, "conv_up2": 16, "conv_hr": 16, "conv_last": 16}
        return sum(enlarged.get(name.split(".")[0], 1) * count for name, count in weights.items())

    @property
    def lag(self) -> int:
        """LR rows by which the output of the blocks lags behind their input."""
        return 3 * _CONVOLUTIONS * self.config.num_blocks + 1

    def forward(self, lr: Tensor) -> Tensor:
        """Map LR (B, 3, h, w) in [-1, 1] to HR (B, 3, 4 h, 4 w) in about [-1, 1], in float32."""
        return whole(self.rows(), lr)

    def rows(self, most_pixels: int = _BODY_PIXELS, border: int = _BORDER) -> Rows:
        """Return the network for rows: LR (B, 3, n, w) in [-1, 1] -> HR (B, 3, 4 n, 4 w), in float32.

        Only HR rows that are complete come out.

        Args:
            most_pixels: LR pixels that go through a block at a time. More are faster, fewer take less memory.
            border: LR pixels that are mirrored on every side; training saves time with 0.
        """
        body = [InPieces(most_pixels, block.rows()) for block in self.body if isinstance(block, RRDB)]
        enlargements = (part for conv in (self.conv_up1, self.conv_up2) for part in _enlargement(conv))
        # the last layers compute in float32, because pixels have more digits than bfloat16
        end: list[Rows] = [
            Convolution(self.conv_hr),
            PerPixel(_act),
            PerPixel(Tensor.float),
            Convolution(self.conv_last),
        ]
        return Chain(
            Extended(border),
            PerPixel(self._entering),
            Convolution(self.conv_first),
            residual(*body, Convolution(self.conv_body)),
            InPieces(ENLARGED_PIXELS, Chain(*enlargements, *end)),
            PerPixel(lambda unit: 2 * unit - 1),
            Cropped(border * self.scale),
        )

    def _entering(self, lr: Tensor) -> Tensor:
        return ((lr + 1) / 2).to(self.conv_first.weight.dtype, memory_format=torch.channels_last)


def _enlargement(conv: nn.Conv2d) -> list[Rows]:
    enlarge = PerPixel(partial(F.interpolate, scale_factor=2, mode="nearest"))
    return [enlarge, Convolution(conv), PerPixel(_act)]


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)
