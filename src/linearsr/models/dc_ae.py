"""The codec of SANA, `diffusers.AutoencoderDC`, and its decoder over strips of rows.

Its convolutions pass rows on, but each linear attention sums over the whole image, so rows have to wait
before it. The decoder is therefore split into stages; each is one pass over the rows that the previous stage
left.

Shape legend: B images, C channels, n rows of images of the width w, which are a tensor (B, C, n, w).
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.codec import Stage
from linearsr.models.rows import Chain, Convolution, Joined, PerPixel, Rows, on_channels, residual
from linearsr.models.strided_stem import LRCondition
from linearsr.runtime.checkpoints import StrPath, class_in

if TYPE_CHECKING:
    from diffusers import AutoencoderDC


class DeepCompressionCodec(nn.Module):
    """`diffusers.AutoencoderDC` (DC-AE, Chen et al. 2025) with the `Codec` interface.

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
        """Move or convert. Raises ValueError for float16, in which the autoencoder's sums overflow."""
        for value in (*args, *kwargs.values()):
            _refuse_float16(value)
        return super().to(*args, **kwargs)

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """Encode (B, 3, H, W) in [-1, 1] -> (B, C, H / compression, W / compression)."""
        latent: Tensor = self.autoencoder.encode(image.to(self.autoencoder.dtype)).latent
        return latent * float(self.autoencoder.config.scaling_factor)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """Decode (B, C, h', w') -> (B, 3, h' * compression, w' * compression) in about [-1, 1]."""
        image: Tensor = self.autoencoder.decode(self._unscaled(latent)).sample
        return image

    def stages(self) -> list[Stage]:
        """Return the decoder by rows, as passes from one linear attention to the next."""
        return _decoder_stages(self.autoencoder, self._unscaled)

    @property
    def decoder_bytes(self) -> int:
        """Bytes per pixel of the decoder's widest layer at the size of the picture."""
        return int(self.autoencoder.config.decoder_block_out_channels[0] * self.autoencoder.dtype.itemsize)

    def _unscaled(self, latent: Tensor) -> Tensor:
        """Undo the scaling of a latent, in the autoencoder's dtype."""
        return latent.to(self.autoencoder.dtype) / float(self.autoencoder.config.scaling_factor)

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write the autoencoder as `diffusers` does."""
        autoencoder = self.autoencoder
        if dtype is not None:
            # a copy, as the codec in use keeps its dtype; `to` of `diffusers` warns about modules it lacks
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
        """Load a folder that `diffusers.AutoencoderDC.save_pretrained` wrote; pickled weights are refused.

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


def _refuse_float16(dtype: object) -> None:
    if dtype == torch.float16:
        raise ValueError("the DC-AE codec overflows in float16: use bfloat16 or float32")


def _decoder_stages(autoencoder: "AutoencoderDC", unscaled: Callable[[Tensor], Tensor]) -> list[Stage]:
    """Split the decoder into stages, from latent rows to rows of the image."""
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d, EfficientViTBlock

    decoder, dtype = autoencoder.decoder, autoencoder.dtype
    entry, cost = partial(_entry, decoder, unscaled), sum(p.numel() for p in decoder.conv_in.parameters())
    stages = [Stage([entry], decoder.conv_in.out_channels, 1, dtype, cost=cost)]
    for block in [*(block for level in reversed(decoder.up_blocks) for block in level), decoder.conv_out]:
        stage, part = stages[-1], partial(_part, block)
        if isinstance(block, EfficientViTBlock):
            # linear attention sums over all rows, so a new stage begins with it
            stage.survey = partial(_survey, block.attn)
            channels = block.attn.to_out.out_features
            stage = Stage([partial(_attention, block.attn)], channels, stage.scale, dtype)
            stages.append(stage)
            part = partial(_part, block.conv_out)
        elif isinstance(block, DCUpBlock2d):
            stage.scale *= block.factor
            stage.channels = block.conv.out_channels // (1 if block.interpolate else block.factor**2)
        else:
            stage.channels = (block if isinstance(block, nn.Conv2d) else block.conv2).out_channels
        if block is decoder.conv_out:
            stage.parts.append(partial(_end, decoder))
        stage.parts.append(part)
        stage.cost += sum(p.numel() for p in block.parameters()) * stage.scale**2
    return stages


def _part(block: Any, _: Tensor | None) -> Rows:
    """Return the part for a block of the decoder that needs no sums."""
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d, ResBlock

    if isinstance(block, nn.Conv2d):
        return Convolution(block)
    if isinstance(block, DCUpBlock2d):
        return _enlargement(block)
    return _res_block(block) if isinstance(block, ResBlock) else _feed_forward(block)


def _entry(decoder: Any, unscaled: Callable[[Tensor], Tensor], _: Tensor | None) -> Rows:
    conv = Convolution(decoder.conv_in)
    if not decoder.in_shortcut:
        return Chain(PerPixel(unscaled), conv)
    repeated = PerPixel(lambda x: x.repeat_interleave(decoder.in_shortcut_repeats, dim=1))
    return Chain(PerPixel(unscaled), Joined(torch.add, conv, repeated))


def _end(decoder: Any, _: Tensor | None) -> Rows:
    return PerPixel(lambda x: decoder.conv_act(_over_channels(decoder.norm_out, x)))


def _res_block(block: Any) -> Rows:
    normed = PerPixel(lambda x: _norm(block.norm, block.norm_type, x))
    return residual(Convolution(block.conv1), PerPixel(block.nonlinearity), Convolution(block.conv2), normed)


def _enlargement(block: Any) -> Rows:
    factor = block.factor
    if block.interpolate:
        mode = block.interpolation_mode
        learned = Chain(
            PerPixel(lambda x: F.interpolate(x, scale_factor=factor, mode=mode)), Convolution(block.conv)
        )
    else:
        learned = Chain(Convolution(block.conv), PerPixel(lambda x: F.pixel_shuffle(x, factor)))
    if not block.shortcut:
        return learned
    repeated = PerPixel(lambda x: F.pixel_shuffle(x.repeat_interleave(block.repeats, dim=1), factor))
    return Joined(torch.add, learned, repeated)


def _feed_forward(block: Any) -> Rows:
    def gated(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=1)
        return _norm(block.norm, block.norm_type, block.conv_point(value * block.nonlinearity(gate)))

    widened = PerPixel(lambda x: block.nonlinearity(block.conv_inverted(x)))
    join = residual if block.residual_connection else Chain
    return join(widened, Convolution(block.conv_depth), PerPixel(gated))


def _attention(attention: Any, total: Tensor | None) -> Rows:
    """Return the part that attends with each row's queries to the keys and values summed by `_survey`."""
    assert total is not None
    channels = attention.attention_head_dim
    weight = attention.to_out.weight
    scores = total.to(weight.device, torch.float32).view(len(total), -1, channels + 1, channels)

    def attend(x: Tensor) -> Tensor:
        query, _, _ = _split(attention, x)
        hidden = scores @ attention.nonlinearity(query)
        hidden = hidden[:, :, :-1] / (hidden[:, :, -1:] + attention.eps)
        hidden = hidden.to(x.dtype).reshape(len(x), -1, *x.shape[2:])
        out = attention.to_out(hidden.movedim(1, -1)).movedim(-1, 1)
        return _norm(attention.norm_out, attention.norm_type, out)

    join = residual if attention.residual_connection else Chain
    return join(_queries_keys_values(attention), PerPixel(attend))


def _survey(attention: Any) -> Rows:
    def summed(x: Tensor) -> Tensor:
        _, key, value = _split(attention, x)
        ones = F.pad(value, (0, 0, 0, 1), value=1)
        scores: Tensor = ones @ attention.nonlinearity(key).transpose(-1, -2)
        return scores.reshape(len(x), -1, 1, 1)

    return Chain(_queries_keys_values(attention), PerPixel(summed))


def _queries_keys_values(attention: Any) -> Rows:
    def project(x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        parts = [layer(x) for layer in (attention.to_q, attention.to_k, attention.to_v)]
        return torch.cat(parts, dim=-1).movedim(-1, 1)

    scales = [
        Chain(Convolution(block.proj_in), PerPixel(block.proj_out)) for block in attention.to_qkv_multiscale
    ]
    return Chain(PerPixel(project), Joined(on_channels, PerPixel(lambda x: x), *scales))


def _split(attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = x.float().reshape(len(x), -1, 3 * attention.attention_head_dim, x.shape[2] * x.shape[3])
    query, key, value = heads.chunk(3, dim=2)
    return query, key, value


def _norm(norm: Any, kind: str | None, x: Tensor) -> Tensor:
    if norm is None:
        return x
    out: Tensor = _over_channels(norm, x) if kind == "rms_norm" else norm(x)
    return out


def _over_channels(norm: Any, x: Tensor) -> Tensor:
    out: Tensor = norm(x.movedim(1, -1))
    return out.movedim(-1, 1)
