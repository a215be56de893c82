"""Codecs: between HR images and the latents that the flow models.

Shape legend: B batch, H W HR size in pixels, C latent channels. Images have values in [-1, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.models.rows import Chain, Rows
from linearsr.models.strided_stem import LRCondition
from linearsr.runtime.checkpoints import PretrainedModule, StrPath


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

    @property
    def decoder_bytes(self) -> int:
        """Of the decoder's widest layer at the size of the picture, per pixel; 0 where it has no layers."""

    def stages(self) -> "list[Stage]":
        """The decoder by rows, as passes over all of them; none where `decode` takes any rows by themselves."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert, as `torch.nn.Module.to`."""

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write config and weights into `folder`."""


MakeRows = Callable[[Tensor | None], Rows]
"""Sums that the stage before left -> a part for one pass."""


@dataclass
class Stage:
    """A pass of decoding: what rows go through between two waits for all of them."""

    parts: list[MakeRows]
    channels: int
    """Of the rows that it leaves."""
    scale: int
    """Of the rows that it leaves, over those of the latent."""
    dtype: torch.dtype
    """Of the rows that it leaves."""
    survey: Callable[[], Rows] | None = None
    """A part through which these rows go on to what must be summed over all of them, (B, sums, ., .)."""
    cost: float = 0.0
    """Multiply-accumulates for one latent position, about."""

    def layers(self, total: Tensor | None) -> Rows:
        """The whole stage; `total` is the sum of the survey before it, (B, sums)."""
        return Chain(*(make(total) for make in self.parts))


_OPPONENT_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Rows: luma, red against blue, green against both; orthogonal, to be normalised."""


@dataclass(frozen=True)
class ResidualCodecConfig:
    """`ResidualCodec`."""

    compression: int = 8
    """HR pixels per side of one latent position."""
    scaling_factors: tuple[float, float, float] = (0.38, 1.4, 2.0)
    """For luma and the two chroma axes: bring the residual, in units of its expected deviation, to unit deviation."""


class ResidualCodec(PretrainedModule):
    """The error of the stem's prediction, in units of its expected deviation, as pixel-unshuffled patches.

    z = unshuffle(scale * C (HR - prediction) / deviation), with C an orthonormal change to opponent colours. Errors in
    colour are several times smaller than errors in lightness; were both at one scale, what noise a sampler leaves
    over would be coloured. The codec has no weights and loses nothing: the flow's ceiling is the picture itself.
    """

    config_class = ResidualCodecConfig
    config: ResidualCodecConfig

    def __init__(self, config: ResidualCodecConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def compression(self) -> int:
        """HR pixels per side of one latent position."""
        return int(self.config.compression)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return int(3 * self.config.compression**2)

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / compression, W / compression)."""
        prediction, deviation = _estimate(condition)
        # the residual of the stem's prediction, in units of its expected deviation, in opponent colours
        residual = _mix_channels((image.float() - prediction) / deviation, self._colours(image.device))
        return F.pixel_unshuffle(residual, self.compression)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """(B, C, h', w') -> (B, 3, h' * compression, w' * compression) in about [-1, 1]."""
        prediction, deviation = _estimate(condition)
        residual = F.pixel_shuffle(latent.float(), self.compression)
        return prediction + deviation * _mix_channels(residual, self._colours(latent.device).inverse())

    decoder_bytes = 0

    def stages(self) -> "list[Stage]":
        """None: a row needs no other."""
        return []

    def _colours(self, device: torch.device) -> Tensor:
        """(3, 3): RGB to scaled opponent colours."""
        rows = F.normalize(torch.tensor(_OPPONENT_COLOURS), dim=1)
        return (rows * torch.tensor(self.config.scaling_factors)[:, None]).to(device)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend (B, C, h, w) to the right and below so that both sides are multiples.

    The border is reflected, as far as the image has pixels to reflect; a thinner one repeats its last row or column.
    """
    height, width = image.shape[-2:]
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return image
    mode = "reflect" if down < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, down), mode=mode)


def _mix_channels(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, image)


def _estimate(condition: LRCondition) -> tuple[Tensor, Tensor]:
    if condition.prediction is None or condition.deviation is None:
        raise ValueError("a residual codec needs a stem that predicts the image: use PredictiveStem")
    return condition.prediction.float(), condition.deviation.float()
