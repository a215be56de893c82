"""Codecs, which convert between HR images and the latents that the flow models.

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
    """The interface of a codec for the pipeline and the trainer."""

    @property
    def compression(self) -> int:
        """HR pixels per side of one latent position; H and W must be multiples of it."""

    @property
    def latent_channels(self) -> int:
        """Channels C of the latent."""

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """Encode (B, 3, H, W) -> (B, C, H / compression, W / compression), of about unit deviation."""

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """Decode a latent to an image (B, 3, H, W) in about [-1, 1]."""

    @property
    def decoder_bytes(self) -> int:
        """Bytes per pixel of the decoder's widest layer at the size of the picture; 0: it has no layers."""

    def stages(self) -> "list[Stage]":
        """Return the decoder by rows, as passes over all of them; none if `decode` takes any rows alone."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert, like `torch.nn.Module.to`."""

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write config and weights into `folder`."""


MakeRows = Callable[[Tensor | None], Rows]
"""A function that makes a part for one pass from the sums of the previous stage, if it left any."""


@dataclass
class Stage:
    """One pass of decoding: the layers that rows pass before all of them are needed again."""

    parts: list[MakeRows]
    channels: int
    """Channels of the rows that it leaves."""
    scale: int
    """Scale of the rows that it leaves, relative to those of the latent."""
    dtype: torch.dtype
    """Dtype of the rows that it leaves."""
    survey: Callable[[], Rows] | None = None
    """Makes the part whose output, (B, sums, ., .), is summed over the rows that it leaves; None: no sums."""
    cost: float = 0.0
    """Approximate multiply-accumulates for one latent position."""

    def layers(self, total: Tensor | None) -> Rows:
        """Return the layers of the stage; `total` is the sum of the previous stage's survey, (B, sums)."""
        return Chain(*(make(total) for make in self.parts))


_OPPONENT_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Rows: luma, red against blue, green against both; orthogonal, but not yet normalised."""


@dataclass(frozen=True)
class ResidualCodecConfig:
    """Settings of a `ResidualCodec`."""

    compression: int = 8
    """HR pixels per side of one latent position."""
    scaling_factors: tuple[float, float, float] = (0.38, 1.4, 2.0)
    """Factors for luma and the two chroma axes that bring the residual, in units of its expected deviation,
    to unit deviation."""


class ResidualCodec(PretrainedModule):
    """The error of the stem's prediction, in units of its expected deviation, as pixel-unshuffled patches.

    z = unshuffle(scale * C (HR - prediction) / deviation), where C is an orthonormal change to opponent
    colours. Errors in colour are several times smaller than errors in lightness; with one scale for both, the
    noise that a sampler leaves would be coloured. The codec has no weights and loses nothing, so it does not
    limit the flow.
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
        """Encode (B, 3, H, W) in [-1, 1] -> (B, C, H / compression, W / compression)."""
        prediction, deviation = _estimate(condition)
        # residual of the stem's prediction, in units of its expected deviation, in opponent colours
        residual = _mix_channels((image.float() - prediction) / deviation, self._colours(image.device))
        return F.pixel_unshuffle(residual, self.compression)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """Decode (B, C, h', w') -> (B, 3, h' * compression, w' * compression) in about [-1, 1]."""
        prediction, deviation = _estimate(condition)
        residual = F.pixel_shuffle(latent.float(), self.compression)
        return prediction + deviation * _mix_channels(residual, self._colours(latent.device).inverse())

    decoder_bytes = 0

    def stages(self) -> "list[Stage]":
        """Return no stages: rows decode independently of each other."""
        return []

    def _colours(self, device: torch.device) -> Tensor:
        """Return the matrix from RGB to scaled opponent colours, (3, 3)."""
        rows = F.normalize(torch.tensor(_OPPONENT_COLOURS), dim=1)
        return (rows * torch.tensor(self.config.scaling_factors)[:, None]).to(device)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, h, w) on the right and below so that both sides are multiples of `multiple`.

    The border is reflected; an image too small for that repeats its last row and column.
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
