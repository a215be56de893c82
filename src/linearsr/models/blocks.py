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
"""Tokens per band, rounded to whole rows; at width 192 a tenth faster than 512, and no slower than 2048."""


def time_features(timestep: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Return float32 sinusoids (B, channels) of `timestep` (B,): cosines first, periods to 2 pi * 10,000."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(TIME_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply adaLN (PixArt, arXiv 2310.00426): norm(x) (1 + scale) + shift, with shift and scale (B, 1, C)."""
    return torch.addcmul(shift, norm(x), 1 + scale).to(x.dtype)


class TwoLayerMLP(nn.Module):
    """Linear layer, activation and linear layer: (..., inputs) -> (..., width)."""

    def __init__(self, inputs: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.activation = activation
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., width), in the dtype of the weights."""
        out: Tensor = self.linear_2(self.activation(self.linear_1(x.to(self.linear_1.weight.dtype))))
        return out


class TimeEmbedding(nn.Module):
    """adaLN-single: one embedding of the time, and six modulation vectors made from it for all blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": TwoLayerMLP(TIME_CHANNELS, width, nn.SiLU())})
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Map timesteps (B,) in 0..1000 to modulation (B, 6, C) and embedding (B, 1, C)."""
        embedded: Tensor = self.emb["timestep_embedder"](time_features(timestep))
        return self.linear(F.silu(embedded)).view(len(embedded), 6, -1), embedded.unsqueeze(1)


class MixFFN(nn.Module):
    """Gated feed-forward layer with a 3x3 depthwise convolution, a block's only source of position."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(ratio * width)
        self.conv_inverted = nn.Conv2d(width, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor, width: int) -> Tensor:
        """Map tokens (B, N, C) in rows of `width` to tokens of the same shape."""
        return as_tokens(whole(self.rows(), as_image(x, width)))

    def rows(self) -> Rows:
        """Return the layer for rows of tokens, (B, C, n, w) in channels-last memory."""
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
        """Apply the block as `in_one` does; on the CPU without gradients, by rows, overwriting `x`."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self.in_one(x, context, context_bias, modulation, width)
        for i, tokens in enumerate(x):
            image, done = as_image(tokens[None], width), 0
            bias = None if context_bias is None else context_bias[i : i + 1]
            outputs = self.by_rows(partial(bands, image), context[i : i + 1], bias, modulation[i])
            # output rows lag behind input rows, so no row is overwritten before it is read
            for out in outputs:
                image[:, :, done : done + out.shape[2]] = out
                done += out.shape[2]
        return x

    def in_one(
        self, x: Tensor, context: Tensor, context_bias: Tensor | None, modulation: Tensor, width: int
    ) -> Tensor:
        """Apply the block to tokens (B, N, C) in rows of `width`, all at once.

        `context` is guidance (B, L, C), `context_bias` its score bias, `modulation` (B, 6, C) stands for the
        time.
        """
        # modulation (adaLN-single): shift, scale and gate of self-attention and Mix-FFN, from the time
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = (
            self.scale_shift_table + modulation
        ).chunk(6, dim=1)
        # linear self-attention: every token attends to every other, at a cost linear in their number
        x = torch.addcmul(x, gate_attn, self.attn1(modulated_norm(x, self.norm1, shift_attn, scale_attn)))
        # cross-attention to the guidance tokens
        x = x + self.attn2(x, context, context_bias)
        # Mix-FFN: the gated feed-forward layer, which also sees the neighbours
        return torch.addcmul(x, gate_ff, self.ff(modulated_norm(x, self.norm2, shift_ff, scale_ff), width))

    def by_rows(
        self,
        rows: Callable[[], Iterable[Tensor]],
        context: Tensor,
        context_bias: Tensor | None,
        modulation: Tensor,
    ) -> Iterator[Tensor]:
        """Compute `in_one` for one image by rows (1, C, n, w) in channels-last memory; output lags by a row.

        The hidden layer of the Mix-FFN is five times as wide as the tokens. For a whole image it does not fit
        in the caches, and allocating memory for it takes as long as computing it.

        Args:
            rows: returns the rows; called twice, first for the sums of linear attention, then for the rest.
            context, context_bias: guidance (1, L, C) and its score bias.
            modulation: modulation by the time, (6, C).
        """
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self.scale_shift_table + modulation
        self_norm = _modulated(self.norm1, shift_attn, scale_attn)
        ff_norm = _modulated(self.norm2, shift_ff, scale_ff)
        # first pass: the sums of linear attention over all rows
        attend = self.attn1.attend_to(
            sum_of(self.attn1.summary(self_norm(as_tokens(part))) for part in rows())
        )
        ask = self.attn2.attend_to(context, context_bias)

        def attended(x: Tensor) -> Tensor:
            x = torch.addcmul(x, gate_attn, attend(self_norm(x)).to(x.dtype))
            return x.add_(ask(x))

        def added(x: Tensor, mixed: Tensor) -> Tensor:
            return torch.addcmul(x, gate_ff[:, None, None], mixed.to(x.dtype))

        # second pass: self-attention, cross-attention and Mix-FFN, row by row
        return through(Chain(per_token(attended), beside(added, per_token(ff_norm), self.ff.rows())), rows())


def bands(image: Tensor) -> tuple[Tensor, ...]:
    """Split an image of tokens (B, C, h, w) into bands of rows that fit a CPU's cache; elsewhere into one."""
    return torch.split(image, band_rows(image.shape[3]), dim=2) if image.device.type == "cpu" else (image,)


def band_rows(width: int) -> int:
    """Return the number of rows in a band, for rows of `width` tokens."""
    return max(1, BAND_TOKENS // width)


def as_tokens(image: Tensor) -> Tensor:
    """View an image (B, C, h, w) in channels-last memory as tokens (B, N, C), without a copy."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def as_image(tokens: Tensor, width: int) -> Tensor:
    """View tokens (B, N, C) as an image (B, C, h, w) in channels-last memory, without a copy."""
    return tokens.view(len(tokens), -1, width, tokens.shape[2]).permute(0, 3, 1, 2)


def per_token(function: Callable[[Tensor], Tensor]) -> PerPixel:
    """Apply a function of tokens (..., C) to rows of an image of tokens."""
    return PerPixel(lambda x: as_image(function(as_tokens(x)), x.shape[3]))


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Apply a 1x1 convolution to tokens (..., C) as one product, without leaving the token layout."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def _modulated(norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """Return adaLN as one layer norm whose own scale and shift are the modulation."""
    weight, bias = 1 + scale, shift
    if norm.elementwise_affine:
        weight, bias = weight * norm.weight, weight * norm.bias + bias
    return lambda x: F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
