"""A transformer block without gradients on the CPU: the same sums, a band of rows at a time.

The hidden layer of the Mix-FFN is five times as wide as the tokens. Written out for a whole image it falls out of
the caches, and fresh memory for it costs as much as computing it. Here a band of rows goes through the block while
it is in the cache, in two passes, as linear attention is two sums: the first gathers the summary of keys and
values, the second does the rest. Hidden rows that the next band's 3x3 convolution needs are carried over.

Where guidance tokens are few, cross-attention is two small products: q = x W_q + b_q only ever meets the keys, so
x (W_q k) is computed in place of (x W_q) k, and likewise behind the softmax with values and output projection.

Shapes: N = h * w tokens and n of them in a band, C inner width, L guidance tokens, H heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.blocks import CrossAttention, LinearSelfAttention, MixFFN, TransformerBlock
from linearsr.models.linear_attention import KVSummary, kv_summary, sum_of
from linearsr.models.rows import pointwise, through

BAND_TOKENS = 1024
"""Tokens of a band, give or take a row; at width 192 a tenth faster than 512, and no slower than 2048."""


def in_bands(
    block: TransformerBlock,
    x: Tensor,
    context: Tensor,
    context_bias: Tensor | None,
    modulation: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """What `block` makes of tokens; on the CPU, without gradients, in bands that are written into the tokens."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return block.in_one(x, context, context_bias, modulation, height, width)
    for i, image in enumerate(x):
        bias = None if context_bias is None else context_bias[i : i + 1]
        rows = BlockRows(block, context[i : i + 1], bias, modulation[i], width)
        bands = rows.bands(image)
        done = 0
        # rows come out later than they went in, so nothing is overwritten that is still to be read
        for out in rows.outputs(lambda bands=bands: bands):  # type: ignore[misc]
            image[done : done + len(out)] = out
            done += len(out)
    return x


class BlockRows:
    """A block that an image's tokens flow through, a few rows after the other: first for the summary, then again.

    Args:
        context, context_bias: guidance (1, L, C) and its score bias.
        modulation: (6, C), by the time.
        width: tokens of a row.
    """

    def __init__(
        self,
        block: TransformerBlock,
        context: Tensor,
        context_bias: Tensor | None,
        modulation: Tensor,
        width: int,
    ) -> None:
        shift_attn, scale_attn, self._gate_attn, shift_ff, scale_ff, self._gate_ff = (
            block.scale_shift_table + modulation
        )
        self._attention = block.attn1
        self._width = width
        self._self_norm = _modulated(block.norm1, shift_attn, scale_attn)
        self._ff_norm = _modulated(block.norm2, shift_ff, scale_ff)
        self._cross_attention = _cross_attention(block.attn2, context, context_bias)
        self._feed_forward = _RollingFFN(block.ff, width)
        self._attend: Callable[[Tensor], Tensor] | None = None
        self._waiting: Tensor | None = None

    def bands(self, x: Tensor) -> tuple[Tensor, ...]:
        """Tokens (n, C) of whole rows in bands; elsewhere than on a CPU all are one."""
        return torch.split(x, band_rows(self._width) * self._width) if x.device.type == "cpu" else (x,)

    def outputs(self, bands: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
        """All tokens by `bands` (n, C), which are gone through twice -> the block's output, a row later."""
        self.attend_to(sum_of(self.summary(band) for band in bands()))
        return through(self, bands())

    def summary(self, x: Tensor) -> KVSummary:
        """What the tokens (n, C) add to the keys and values."""
        return kv_summary(*self._attention.keys_values(self._self_norm(x)[None]))

    def attend_to(self, summary: KVSummary) -> None:
        """Let what is pushed from now on attend to the tokens of `summary`: those of all rows."""
        self._attend = _attention_to(summary, self._attention)

    def push(self, x: Tensor | None, last: bool = False) -> Tensor:
        """Tokens (n, C) of the next rows -> the block's output, one row behind until the `last` come."""
        assert x is not None
        assert self._attend is not None
        # linear attention, cross-attention and Mix-FFN, as in `TransformerBlock.in_one`
        x = torch.addcmul(x, self._gate_attn, self._attend(self._self_norm(x)).to(x.dtype))
        x.add_(self._cross_attention(x))
        mixed = self._feed_forward.push(self._ff_norm(x), last)
        ready = x if self._waiting is None else torch.cat([self._waiting, x])
        # a copy, or the band would be kept for its last row
        self._waiting = ready[len(mixed) :].clone()
        return torch.addcmul(ready[: len(mixed)], self._gate_ff, mixed.to(x.dtype))


def band_rows(width: int) -> int:
    """Rows of a band, of so many tokens each: as many as fit a CPU's cache."""
    return max(1, BAND_TOKENS // width)


def _modulated(norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """adaLN as one layer norm whose own scale and shift are the modulation."""
    weight, bias = 1 + scale, shift
    if norm.elementwise_affine:
        weight, bias = weight * norm.weight, weight * norm.bias + bias
    return lambda x: F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


def _attention_to(summary: KVSummary, attention: LinearSelfAttention) -> Callable[[Tensor], Tensor]:
    """Linear attention of (n, C) tokens to what is summed up for one image, with the output projection.

    With p = phi(q) z / (phi(q) . z), which sums to one over a head, a head's output is p (S / z). So all heads' outputs
    and their projection are one product of p with the matrix of (S / z) W_out.
    """
    out = cast(nn.Linear, attention.to_out[0])
    with torch.autocast(out.weight.device.type, enabled=False):
        heads, head_dim = summary.z.shape[1:]
        averages = summary.S[0] / summary.z[0].clamp(min=torch.finfo(summary.z.dtype).tiny)[..., None]
        projection = out.weight.to(averages.dtype).t().reshape(heads, head_dim, -1)
        values = (averages @ projection).flatten(0, 1).t().to(out.weight.dtype)
        # their mean, for a sum may be beyond float16
        z = (summary.z[0] / summary.tokens).to(out.weight.dtype)

    def attend(x: Tensor) -> Tensor:
        weights = F.relu(attention.queries(x[None])[0].transpose(0, 1)) * z
        weights /= weights.sum(-1, keepdim=True).clamp_(min=torch.finfo(weights.dtype).tiny)
        return F.linear(weights.flatten(1), values, out.bias)

    return attend


def _cross_attention(
    attention: CrossAttention, context: Tensor, bias: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Attention of (n, C) tokens to guidance (1, L, C)."""
    tokens, heads = context.shape[1], attention.heads
    inner = attention.to_q.out_features
    if attention.norm_q is not None or tokens * heads >= inner:
        return lambda x: attention(x[None], context, bias)[0]

    with torch.autocast(context.device.type, enabled=False):
        head_dim = inner // heads
        weight = attention.to_q.weight
        dtype = weight.dtype
        given = context[0].to(dtype)
        k = attention.to_k(given).view(tokens, heads, head_dim).transpose(0, 1).float() * head_dim**-0.5
        v = attention.to_v(given).view(tokens, heads, head_dim).transpose(0, 1).float()
        scorers = (k @ weight.float().view(heads, head_dim, -1)).flatten(0, 1).to(dtype)
        offset = (k @ attention.to_q.bias.float().view(heads, head_dim, 1)).squeeze(-1)
        offset = (offset if bias is None else offset + bias[0, 0]).flatten()[:, None].to(dtype)
        out_bias = attention.to_out.get_parameter("0.bias")
        out_weight = attention.to_out.get_parameter("0.weight")
        values = (v @ out_weight.float().t().reshape(heads, head_dim, -1)).flatten(0, 1).to(dtype)

    def folded(x: Tensor) -> Tensor:
        # Softmax over an axis that is not the last is many times faster for a few tokens.
        scores = torch.matmul(scorers, x.to(dtype).t()) + offset
        weights = scores.view(heads, tokens, -1).softmax(1).flatten(0, 1)
        return F.linear(weights.t().to(dtype), values.t(), out_bias)

    return folded


class _RollingFFN:
    """The Mix-FFN over rows of `width` tokens that arrive in bands; its result is one row behind."""

    def __init__(self, ff: MixFFN, width: int) -> None:
        self.ff = ff
        self.width = width
        self.tail: Tensor | None = None

    def push(self, normed: Tensor, last: bool) -> Tensor:
        """Normed tokens (n, C) of the next rows -> result (m, C) for all rows that have both neighbours."""
        hidden = F.silu(pointwise(normed, self.ff.conv_inverted), inplace=True).view(
            -1, self.width, self.ff.channels
        )
        border = hidden.new_zeros(1, self.width, self.ff.channels)
        above = border if self.tail is None else self.tail
        return self._convolve(torch.cat([above, hidden, border] if last else [above, hidden]))

    def _convolve(self, hidden: Tensor) -> Tensor:
        """Hidden rows with a neighbour above and below: all but the outermost."""
        self.tail = hidden[-2:]
        if len(hidden) < 3:
            return hidden.new_empty(0, self.ff.conv_point.out_channels)
        conv = self.ff.conv_depth
        image = hidden[None].permute(0, 3, 1, 2)
        mixed = F.conv2d(image, conv.weight, conv.bias, padding=(0, 1), groups=conv.groups)
        value, gate = mixed[0].permute(1, 2, 0).flatten(0, 1).chunk(2, dim=-1)
        return pointwise(F.silu(gate, inplace=True).mul_(value), self.ff.conv_point)
