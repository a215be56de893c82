"""The parts of the transformer, with the parameter names of `diffusers.SanaTransformer2DModel`.

Tokens are (B, N, C) throughout. Read as (B, h, w, C) and permuted, they are an image in channels-last
memory, so the depthwise convolution of the feed-forward layer needs no copy.

Shapes: B batch, N = h * w tokens, C inner width, L guidance tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.attention import CrossAttention, LinearSelfAttention
from linearsr.models.linear_attention import sum_of
from linearsr.models.rows import Chain, Convolution, PerPixel, Rows, beside, through, whole
from linearsr.models.transformer_config import TransformerConfig

TIME_CHANNELS = 256
TIME_PERIOD = 10_000.0
BAND_TOKENS = 1024
"""Tokens of a band, give or take a row; at width 192 a tenth faster than 512, and no slower than 2048."""


def time_features(timestep: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Sinusoids of `timestep` (B,): (B, channels) in float32, cosines first, periods up to 2 pi * 10,000."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(TIME_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN (PixArt, arXiv 2310.00426): norm(x) * (1 + scale) + shift, with shift and scale (B, 1, C)."""
    return torch.addcmul(shift, norm(x), 1 + scale).to(x.dtype)


class TwoLayerMLP(nn.Module):
    """Linear, activation, Linear; (..., inputs) -> (..., width)."""

    def __init__(self, inputs: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.activation = activation
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., width), computed in the dtype of the weights."""
        out: Tensor = self.linear_2(self.activation(self.linear_1(x.to(self.linear_1.weight.dtype))))
        return out


class TimeEmbedding(nn.Module):
    """adaLN-single: one embedding of the time, and from it six modulation vectors for all blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TwoLayerMLP(TIME_CHANNELS, width, nn.SiLU())})
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) in 0..1000 -> modulation (B, 6, C) and embedding (B, 1, C)."""
        embedded: Tensor = self.emb["timestep_embedder"](time_features(timestep))
        return self.linear(F.silu(embedded)).view(len(embedded), 6, -1), embedded.unsqueeze(1)


class MixFFN(nn.Module):
    """Gated feed-forward layer with a 3x3 depthwise convolution: all that knows where a token lies."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(ratio * width)
        self.conv_inverted = nn.Conv2d(width, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Tokens (B, N, C) in rows of `width` -> the same shape."""
        return as_tokens(whole(self.rows(), as_image(x, width)))

    def rows(self) -> Rows:
        """The layer for rows of tokens, (B, C, n, w) in channels-last memory."""
        return Chain(per_token(self._widened), Convolution(self.conv_depth), per_token(self._gated))

    def _widened(self, x: Tensor) -> Tensor:
        return F.silu(pointwise(x, self.conv_inverted), inplace=not torch.is_grad_enabled())

    def _gated(self, hidden: Tensor) -> Tensor:
        value, gate = hidden.chunk(2, dim=-1)
        return pointwise(value * F.silu(gate, inplace=not torch.is_grad_enabled()), self.conv_point)


class TransformerBlock(nn.Module):
    """Linear self-attention, cross-attention, Mix-FFN; the time modulates the first and the last."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, eps, affine = config.width, config.norm_eps, config.norm_elementwise_affine
        own = config.num_attention_heads, config.attention_head_dim, config.attention_bias, config.qk_norm
        cross = config.num_cross_attention_heads, config.cross_attention_head_dim, True, config.qk_norm
        self.norm1 = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        self.attn1 = LinearSelfAttention(width, *own)
        self.attn2 = CrossAttention(width, *cross)
        self.norm2 = nn.LayerNorm(width, eps=eps, elementwise_affine=affine)
        self.ff = MixFFN(width, config.mlp_ratio)
        self.scale_shift_table = nn.Parameter(torch.empty(6, width).normal_(std=width**-0.5))

    def forward(
        self, x: Tensor, context: Tensor, context_bias: Tensor | None, modulation: Tensor, width: int
    ) -> Tensor:
        """As `in_one`; on the CPU, without gradients, by rows that are written into the tokens."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.in_one(x, context, context_bias, modulation, width)
        for i, tokens in enumerate(x):
            image, done = as_image(tokens[None], width), 0
            bias = None if context_bias is None else context_bias[i : i + 1]
            outputs = self.by_rows(partial(bands, image), context[i : i + 1], bias, modulation[i])
            # rows come out later than they went in, so nothing is overwritten that is still to be read
            for out in outputs:
                image[:, :, done : done + out.shape[2]] = out
                done += out.shape[2]
        return x

    def in_one(
        self, x: Tensor, context: Tensor, context_bias: Tensor | None, modulation: Tensor, width: int
    ) -> Tensor:
        """Tokens (B, N, C) in rows of `width`, guidance (B, L, C), its score bias, modulation (B, 6, C) -> tokens."""
        # modulation (adaLN-single): the time shifts, scales and gates what goes through
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = (
            self.scale_shift_table + modulation
        ).chunk(6, dim=1)
        # linear attention: every token to every other, in time that grows with their number
        x = torch.addcmul(x, gate_attn, self.attn1(modulated_norm(x, self.norm1, shift_attn, scale_attn)))
        # cross-attention to the guidance tokens
        x = x + self.attn2(x, context, context_bias)
        # Mix-FFN: the gated layer that also sees the neighbours
        return torch.addcmul(x, gate_ff, self.ff(modulated_norm(x, self.norm2, shift_ff, scale_ff), width))

    def by_rows(
        self,
        rows: Callable[[], Iterable[Tensor]],
        context: Tensor,
        context_bias: Tensor | None,
        modulation: Tensor,
    ) -> Iterator[Tensor]:
        """What `in_one` makes of one image, by rows (1, C, n, w) in channels-last memory; it comes a row later.

        The hidden layer of the Mix-FFN is five times as wide as the tokens. Written out for a whole image it falls out
        of the caches, and fresh memory for it costs as much as computing it.

        Args:
            rows: gives the rows, which are gone through twice: for the sums of linear attention, then for the rest.
            context, context_bias: guidance (1, L, C) and its score bias.
            modulation: (6, C), by the time.
        """
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self.scale_shift_table + modulation
        self_norm = _modulated(self.norm1, shift_attn, scale_attn)
        ff_norm = _modulated(self.norm2, shift_ff, scale_ff)
        attend = self.attn1.attend_to(
            sum_of(self.attn1.summary(self_norm(as_tokens(part))) for part in rows())
        )
        ask = self.attn2.attend_to(context, context_bias)

        def attended(x: Tensor) -> Tensor:
            x = torch.addcmul(x, gate_attn, attend(self_norm(x)).to(x.dtype))
            return x.add_(ask(x))

        def added(x: Tensor, mixed: Tensor) -> Tensor:
            return torch.addcmul(x, gate_ff[:, None, None], mixed.to(x.dtype))

        return through(Chain(per_token(attended), beside(added, per_token(ff_norm), self.ff.rows())), rows())


def bands(image: Tensor) -> tuple[Tensor, ...]:
    """An image of tokens (B, C, h, w) in bands of rows that fit a CPU's cache; elsewhere than on a CPU all are one."""
    return torch.split(image, band_rows(image.shape[3]), dim=2) if image.device.type == "cpu" else (image,)


def band_rows(width: int) -> int:
    """Rows of a band, of so many tokens each."""
    return max(1, BAND_TOKENS // width)


def as_tokens(image: Tensor) -> Tensor:
    """(B, C, h, w) in channels-last memory -> (B, N, C), no copy."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def as_image(tokens: Tensor, width: int) -> Tensor:
    """(B, N, C) -> (B, C, h, w) in channels-last memory, no copy."""
    return tokens.view(len(tokens), -1, width, tokens.shape[2]).permute(0, 3, 1, 2)


def per_token(function: Callable[[Tensor], Tensor]) -> PerPixel:
    """A function of tokens (..., C), for rows of an image of tokens."""
    return PerPixel(lambda x: as_image(function(as_tokens(x)), x.shape[3]))


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution of tokens (..., C): one product, without leaving the token layout."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _modulated(norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """adaLN as one layer norm whose own scale and shift are the modulation."""
    weight, bias = 1 + scale, shift
    if norm.elementwise_affine:
        weight, bias = weight * norm.weight, weight * norm.bias + bias
    return lambda x: F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
