"""Codecs: between HR images and the latents that the flow models.

Shape legend: B batch, H W HR size in pixels, C latent channels. Images have values in [-1, 1].
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.codec_rows import Stage, decoder_stages
from linearsr.models.strided_stem import LRCondition
from linearsr.runtime.checkpoints import PretrainedModule, StrPath, class_in

if TYPE_CHECKING:
    from diffusers import AutoencoderDC


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

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert, as `torch.nn.Module.to`."""

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write config and weights into `folder`."""


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

    def _colours(self, device: torch.device) -> Tensor:
        """(3, 3): RGB to scaled opponent colours."""
        rows = F.normalize(torch.tensor(_OPPONENT_COLOURS), dim=1)
        return (rows * torch.tensor(self.config.scaling_factors)[:, None]).to(device)


class DeepCompressionCodec(nn.Module):
    """`diffusers.AutoencoderDC` (DC-AE, Chen et al. 2025) behind the `Codec` interface.

    The latent is scaled by the autoencoder's own `scaling_factor`. The stem's condition is not used.
    """

    def __init__(self, autoencoder: "AutoencoderDC") -> None:
        super().__init__()
        self.autoencoder = autoencoder

    @property
    def compression(self) -> int:
        """HR pixels per side of one latent position."""
        return int(self.autoencoder.spatial_compression_ratio)

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return int(self.autoencoder.config.latent_channels)

    def to(self, *args: Any, **kwargs: Any) -> "DeepCompressionCodec":
        """As `torch.nn.Module.to`. Raises ValueError for float16, in which the autoencoder's sums overflow."""
        for value in (*args, *kwargs.values()):
            _refuse_float16(value)
        return super().to(*args, **kwargs)

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H / compression, W / compression)."""
        latent: Tensor = self.autoencoder.encode(image.to(self.autoencoder.dtype)).latent
        return latent * float(self.autoencoder.config.scaling_factor)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """(B, C, h', w') -> (B, 3, h' * compression, w' * compression) in about [-1, 1]."""
        image: Tensor = self.autoencoder.decode(self.unscaled(latent)).sample
        return image

    def stages(self) -> list[Stage]:
        """The decoder by rows, as passes from one linear attention to the next."""
        return decoder_stages(self.autoencoder)

    def unscaled(self, latent: Tensor) -> Tensor:
        """What the autoencoder itself takes a latent to be."""
        return latent.to(self.autoencoder.dtype) / float(self.autoencoder.config.scaling_factor)

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write the autoencoder as `diffusers` does."""
        autoencoder = self.autoencoder
        if dtype is not None:
            # a copy: the codec in use keeps its type; `to` of `diffusers` warns of modules that it has not
            autoencoder = copy.deepcopy(autoencoder)
            nn.Module.to(autoencoder, dtype)
        autoencoder.save_pretrained(folder)

    @classmethod
    def from_pretrained(
        cls,
        folder: StrPath,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> "DeepCompressionCodec":
        """Read a folder that `diffusers.AutoencoderDC.save_pretrained` wrote; pickled weights are refused.

        Raises:
            ImportError: `diffusers` is not installed.
            CheckpointError: the folder holds something else.
            ValueError: `dtype` is float16, in which the autoencoder's sums overflow.
        """
        _refuse_float16(dtype)
        try:
            from diffusers import AutoencoderDC
        except ImportError as error:
            raise ImportError("the DC-AE codec needs diffusers: pip install 'linearsr[full]'") from error
        class_in(Path(folder), {AutoencoderDC.__name__: cls}, "a DC-AE")
        autoencoder = AutoencoderDC.from_pretrained(folder, torch_dtype=dtype, use_safetensors=True)
        return cls(autoencoder.to(device).eval())


CODECS: dict[str, type[ResidualCodec] | type[DeepCompressionCodec]] = {
    "ResidualCodec": ResidualCodec,
    "AutoencoderDC": DeepCompressionCodec,
}


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


def _refuse_float16(dtype: object) -> None:
    if dtype == torch.float16:
        raise ValueError("the DC-AE codec overflows in float16: use bfloat16 or float32")


def _mix_channels(image: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, image)


def _estimate(condition: LRCondition) -> tuple[Tensor, Tensor]:
    if condition.prediction is None or condition.deviation is None:
        raise ValueError("a residual codec needs a stem that predicts the image: use PredictiveStem")
    return condition.prediction.float(), condition.deviation.float()
