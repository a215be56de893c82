"""The trunk: residual-in-residual dense blocks that draw the HR image at once, on the LR grid.

RRDBNet (ESRGAN, Wang et al. 2018; Real-ESRGAN, Wang et al. 2021), with the layout and the names of its public
checkpoints, so that their weights load. It is written once, for rows that flow through it: a whole image is one strip.

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
"""Of the leaky ReLUs."""
BRANCH = 0.2
"""What a dense block, and a group of three, adds to its input is scaled by this."""
_BORDER = 4
"""LR pixels that are mirrored on every side: with zeros there, rims would be dark and crooked."""
_BODY_PIXELS, ENLARGED_PIXELS = 2**18, 2**14
"""LR pixels that go through a block, and through all that is behind the blocks, at a time."""
_CONVOLUTIONS = 5
"""Of a dense block."""


@dataclass(frozen=True)
class RRDBNetConfig:
    """`RRDBNet`."""

    channels: int = 64
    """Width between the blocks."""
    growth_channels: int = 32
    """What each convolution of a dense block adds."""
    num_blocks: int = 6
    """Residual-in-residual dense blocks, of three dense blocks each."""

    def __post_init__(self) -> None:
        for name in ("channels", "growth_channels", "num_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} {value!r}: must be a whole number of at least 1")


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it made; x + 0.2 times the last one's output."""

    processor: Callable[["DenseBlock"], Rows] | None = None
    """Makes the block for rows, in the place of `layers`."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        for i in range(_CONVOLUTIONS):
            made = channels if i == _CONVOLUTIONS - 1 else growth_channels
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels + i * growth_channels, made, 3, padding=1))

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """All of them, in order."""
        return [conv for conv in self.children() if isinstance(conv, nn.Conv2d)]

    def rows(self) -> Rows:
        """(B, C, n, w) -> the same shape, by the processor if there is one."""
        return self.layers() if self.processor is None else self.processor(self)

    def layers(self, *before_last: Rows) -> Rows:
        """The block in floating point; `before_last` are parts between the last two convolutions."""
        *dense, last = self.convolutions
        seen = [beside(on_channels, Convolution(conv), PerPixel(_act)) for conv in dense]
        return residual(*seen, *before_last, Convolution(last), scale=BRANCH)


class RRDB(nn.Module):
    """Three dense blocks; x + 0.2 times what they make of it."""

    def __init__(self, channels: int, growth_channels: int) -> None:
        super().__init__()
        for i in range(3):
            self.add_module(f"rdb{i + 1}", DenseBlock(channels, growth_channels))

    def rows(self) -> Rows:
        """(B, C, n, w) -> the same shape."""
        blocks = [block.rows() for block in self.children() if isinstance(block, DenseBlock)]
        return residual(*blocks, scale=BRANCH)


class RRDBNet(PretrainedModule):
    """Residual-in-residual dense blocks, then two enlargements by 2 with a convolution behind each."""

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
        """Multiply-accumulates for one LR pixel."""
        weights = {name: parameter.numel() for name, parameter in self.named_parameters()}
        enlarged = {"conv_up1": 4, "conv_up2": 16, "conv_hr": 16, "conv_last": 16}
        return sum(enlarged.get(name.split(".")[0], 1) * count for name, count in weights.items())

    @property
    def lag(self) -> int:
        """LR rows that the output of the blocks is behind their input."""
        return 3 * _CONVOLUTIONS * self.config.num_blocks + 1

    def forward(self, lr: Tensor) -> Tensor:
        """LR image (B, 3, h, w) in [-1, 1] -> HR image (B, 3, 4 h, 4 w) in about [-1, 1], in float32."""
        return whole(self.rows(), lr)

    def rows(self, most_pixels: int = _BODY_PIXELS) -> Rows:
        """LR rows (B, 3, n, w) in [-1, 1] -> the HR rows (B, 3, 4 n, 4 w) that are complete, in float32.

        Args:
            most_pixels: LR pixels that go through a block at a time. More are faster, fewer take less memory.
        """
        body = [InPieces(most_pixels, block.rows()) for block in self.body if isinstance(block, RRDB)]
        enlargements = (part for conv in (self.conv_up1, self.conv_up2) for part in _enlargement(conv))
        # pixels have more digits than bfloat16
        end: list[Rows] = [
            Convolution(self.conv_hr),
            PerPixel(_act),
            PerPixel(Tensor.float),
            Convolution(self.conv_last),
        ]
        return Chain(
            Extended(_BORDER),
            PerPixel(self._entering),
            Convolution(self.conv_first),
            residual(*body, Convolution(self.conv_body)),
            InPieces(ENLARGED_PIXELS, Chain(*enlargements, *end)),
            PerPixel(lambda unit: 2 * unit - 1),
            Cropped(_BORDER * self.scale),
        )

    def _entering(self, lr: Tensor) -> Tensor:
        return ((lr + 1) / 2).to(self.conv_first.weight.dtype, memory_format=torch.channels_last)


def _enlargement(conv: nn.Conv2d) -> list[Rows]:
    enlarge = PerPixel(partial(F.interpolate, scale_factor=2, mode="nearest"))
    return [enlarge, Convolution(conv), PerPixel(_act)]


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)
