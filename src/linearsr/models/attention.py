"""Attention of the transformer, with the parameter names of `diffusers.SanaTransformer2DModel`.

Both kinds work in one call, or for one band of tokens at a time (`attend_to`), with keys and values summed or
projected beforehand. In bands, products are merged: x (W_q k) instead of (x W_q) k, and likewise for values
and the output projection.

Shapes: B batch, N tokens and n of them in a band, C inner width, L guidance tokens, H heads, D channels of a
head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.linear_attention import KVSummary, kv_summary, relu_linear_attention

QK_NORM_EPS = 1e-5


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis with a learned scale; keeps the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., C) over its last axis, in the wider dtype of input and weight."""
        assert self.weight is not None
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        return F.rms_norm(x.to(wide), [x.shape[-1]], self.weight.to(wide), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Projections to queries, keys and values and back, with optional norms; subclasses add the attention."""

    def __init__(self, width: int, heads: int, head_dim: int, bias: bool, qk_norm: str | None) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_k = nn.Linear(width, inner, bias=bias)
        self.to_v = nn.Linear(width, inner, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q = RMSNorm(inner, eps=QK_NORM_EPS) if qk_norm else None
        self.norm_k = RMSNorm(inner, eps=QK_NORM_EPS) if qk_norm else None

    def project_out(self, attended: Tensor) -> Tensor:
        """Project attended values (B, H, N, D) to tokens (B, N, C)."""
        out: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class LinearSelfAttention(Attention):
    """ReLU linear attention among all tokens of an image."""

    to_qkv: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Attend among tokens (B, N, C); return the same shape."""
        return self.project_out(relu_linear_attention(self.queries(x), *self.keys_values(x)))

    def queries(self, x: Tensor) -> Tensor:
        """Project tokens (B, N, C) to queries (B, H, N, D)."""
        q = _linear_rows(x, self.to_qkv, 0, 1) if self.fused else self.to_q(x)
        return self._split_heads(q if self.norm_q is None else self.norm_q(q))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project tokens (B, N, C) to keys and values, each (B, H, N, D)."""
        if self.fused:
            k, v = _linear_rows(x, self.to_qkv, 1, 3).chunk(2, dim=-1)
        else:
            k, v = self.to_k(x), self.to_v(x)
        return self._split_heads(k if self.norm_k is None else self.norm_k(k)), self._split_heads(v)

    @property
    def fused(self) -> bool:
        """Whether one product computes queries, keys and values."""
        return "to_qkv" in self._modules

    def fuse_(self) -> None:
        """Compute queries, keys and values in one product; `state_dict` still names the three parts."""
        if self.fused:
            return
        parts = [self.to_q, self.to_k, self.to_v]
        weight = parts[0].weight
        with torch.no_grad():
            fused = nn.Linear(
                weight.shape[1],
                3 * weight.shape[0],
                bias=parts[0].bias is not None,
                device=weight.device,
                dtype=weight.dtype,
            )
            for name, parameter in fused.named_parameters():
                parameter.copy_(torch.cat([part.get_parameter(name) for part in parts]))
        fused.requires_grad_(weight.requires_grad)
        del self.to_q, self.to_k, self.to_v
        self.to_qkv = fused
        self.register_state_dict_post_hook(_name_the_three_parts)  # type: ignore[no-untyped-call]

    def summary(self, x: Tensor) -> KVSummary:
        """Sum up the keys and values of tokens (B, n, C)."""
        return kv_summary(*self.keys_values(x))

    def attend_to(self, summary: KVSummary) -> Callable[[Tensor], Tensor]:
        """Return the attention of tokens (1, n, C) to all tokens of their image, given by their `summary`.

        With p = phi(q) z / (phi(q) . z), which sums to one over a head, a head's output is p (S / z). So the
        outputs of all heads and their projection are one product of p with the matrix (S / z) W_out.
        """
        out = cast(nn.Linear, self.to_out[0])
        with torch.autocast(out.weight.device.type, enabled=False):
            heads, head_dim = summary.z.shape[1:]
            averages = summary.S[0] / summary.z[0].clamp(min=torch.finfo(summary.z.dtype).tiny)[..., None]
            projection = out.weight.to(averages.dtype).t().reshape(heads, head_dim, -1)
            values = (averages @ projection).flatten(0, 1).t().to(out.weight.dtype)
            # the mean, because a sum may exceed float16; the scale of z cancels
            z = (summary.z[0] / summary.tokens).to(out.weight.dtype)

        def attend(x: Tensor) -> Tensor:
            weights = F.relu(self.queries(x)[0].transpose(0, 1)) * z
            weights /= weights.sum(-1, keepdim=True).clamp_(min=torch.finfo(weights.dtype).tiny)
            return F.linear(weights.flatten(1), values, out.bias)[None]

        return attend


def _name_the_three_parts(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any]
) -> None:
    for kind in ("weight", "bias"):
        fused = state.pop(f"{prefix}to_qkv.{kind}", None)
        if fused is not None:
            for name, part in zip("qkv", fused.chunk(3), strict=True):
                state[f"{prefix}to_{name}.{kind}"] = part


def _linear_rows(x: Tensor, linear: nn.Linear, first: int, last: int) -> Tensor:
    """Return the outputs of the thirds `first` to `last` of a fused projection."""
    third = linear.out_features // 3
    rows = slice(first * third, last * third)
    return F.linear(x, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


class CrossAttention(Attention):
    """Softmax attention of image tokens to the few guidance tokens."""

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """Attend from (B, N, C) to guidance (B, L, C) with score bias (B, 1, 1, L); return (B, N, C)."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        return self.project_out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))

    def attend_to(self, context: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Return the attention of tokens (1, n, C) to guidance (1, L, C) with score bias (1, 1, 1, L)."""
        tokens, heads = context.shape[1], self.heads
        inner = self.to_q.out_features
        # merged products save work for few tokens only, and leave no room for a norm of the queries
        if self.norm_q is not None or tokens * heads >= inner:
            return lambda x: self.forward(x, context, bias)

        with torch.autocast(context.device.type, enabled=False):
            head_dim = inner // heads
            dtype = self.to_q.weight.dtype
            given = context[0].to(dtype)
            k, v = (
                to(given).view(tokens, heads, -1).transpose(0, 1).float() for to in (self.to_k, self.to_v)
            )
            k = k * head_dim**-0.5
            scorers = (k @ self.to_q.weight.float().view(heads, head_dim, -1)).flatten(0, 1).to(dtype)
            offset = (k @ self.to_q.bias.float().view(heads, head_dim, 1)).squeeze(-1)
            offset = (offset if bias is None else offset + bias[0, 0]).flatten()[:, None].to(dtype)
            out = cast(nn.Linear, self.to_out[0])
            values = (v @ out.weight.float().t().reshape(heads, head_dim, -1)).flatten(0, 1).to(dtype)

        def attend(x: Tensor) -> Tensor:
            # softmax over an axis that is not the last is many times faster for a few tokens
            scores = torch.matmul(scorers, x[0].to(dtype).t()) + offset
            weights = scores.view(heads, tokens, -1).softmax(1).flatten(0, 1)
            return F.linear(weights.t().to(dtype), values.t(), out.bias)[None]

        return attend
