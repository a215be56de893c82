"""The decoder of `diffusers.AutoencoderDC` over strips of rows.

Its convolutions pass rows on; before each linear attention, whose sum is over the whole image, rows have to wait.
So the decoder falls into stages, and each is one pass over the rows that the stage before it left.

Shape legend: B images, C channels, n rows of images of the width w, which are a tensor (B, C, n, w).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.rows import Chain, Convolution, Joined, PerPixel, Rows, on_channels, residual

if TYPE_CHECKING:
    from diffusers import AutoencoderDC

MakeRows = Callable[[Tensor | None], Rows]
"""Sums that the stage before left -> a part for one pass."""


@dataclass
class Stage:
    """What rows go through between two waits."""

    parts: list[MakeRows]
    channels: int
    """Of the rows that it leaves."""
    scale: int
    """Of the rows that it leaves, over those of the latent."""
    survey: Callable[[], Rows] | None = None
    """A part through which these rows go on to what must be summed over all of them, (B, sums, ., .)."""
    cost: float = 0.0
    """Multiply-accumulates for one latent position, about."""

    def layers(self, total: Tensor | None) -> Rows:
        """The whole stage; `total` is the sum of the survey before it, (B, sums)."""
        return Chain(*(make(total) for make in self.parts))


@dataclass
class _Builder:
    channels: int
    scale: int = 1
    stages: list[Stage] = field(default_factory=list)
    parts: list[MakeRows] = field(default_factory=list)
    cost: float = 0.0

    def add(self, module: nn.Module, make: MakeRows, channels: int, scale: int = 1) -> None:
        self.scale *= scale
        self.channels = channels
        self.cost += sum(p.numel() for p in module.parameters()) * self.scale**2
        self.parts.append(make)

    def end_stage(self, survey: Callable[[], Rows] | None = None) -> None:
        self.stages.append(Stage(self.parts, self.channels, self.scale, survey, self.cost))
        self.parts, self.cost = [], 0.0


def decoder_stages(autoencoder: "AutoencoderDC") -> list[Stage]:
    """The stages from scaled latent rows to rows of the image."""
    from diffusers.models.autoencoders.autoencoder_dc import DCUpBlock2d, EfficientViTBlock, ResBlock

    decoder = autoencoder.decoder
    builder = _Builder(decoder.conv_in.in_channels)
    builder.add(decoder.conv_in, lambda _: _entry(decoder), decoder.conv_in.out_channels)

    def add(block: Any) -> None:
        if isinstance(block, EfficientViTBlock):
            builder.end_stage(lambda: _survey(block.attn))
            channels = block.attn.to_out.out_features
            builder.add(block.attn, lambda total: _attention(block.attn, total), channels)
            builder.add(block.conv_out, lambda _: _feed_forward(block.conv_out), channels)
        elif isinstance(block, DCUpBlock2d):
            channels = block.conv.out_channels // (1 if block.interpolate else block.factor**2)
            builder.add(block, lambda _: _enlargement(block), channels, block.factor)
        else:
            assert isinstance(block, ResBlock)
            builder.add(block, lambda _: _res_block(block), block.conv2.out_channels)

    for level in reversed(decoder.up_blocks):
        for block in level:
            add(block)
    end = PerPixel(lambda x: decoder.conv_act(_over_channels(decoder.norm_out, x)))
    builder.add(decoder.norm_out, lambda _: end, builder.channels)
    if isinstance(decoder.conv_out, nn.Conv2d):
        builder.add(decoder.conv_out, lambda _: Convolution(decoder.conv_out), decoder.conv_out.out_channels)
    else:
        add(decoder.conv_out)
    builder.end_stage()
    return builder.stages


def _entry(decoder: Any) -> Rows:
    conv = Convolution(decoder.conv_in)
    if not decoder.in_shortcut:
        return conv
    repeats = decoder.in_shortcut_repeats
    return Joined(torch.add, conv, PerPixel(lambda x: x.repeat_interleave(repeats, dim=1)))


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
    parts: list[Rows] = [widened, Convolution(block.conv_depth), PerPixel(gated)]
    return residual(*parts) if block.residual_connection else Chain(*parts)


def _attention(attention: Any, total: Tensor | None) -> Rows:
    """Attention of all rows' queries to the keys and values that were summed by `_survey`."""
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

    parts: list[Rows] = [_queries_keys_values(attention), PerPixel(attend)]
    return residual(*parts) if attention.residual_connection else Chain(*parts)


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
    every_scale = Joined(on_channels, PerPixel(lambda x: x), *scales)
    return Chain(PerPixel(project), every_scale)


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
