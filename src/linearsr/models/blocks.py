"""The parts of the transformer, with the parameter names of `diffusers.SanaTransformer2DModel`.

Tokens are (B, N, C) throughout. Read as (B, h, w, C) and permuted, they are an image in channels-last
memory, so the depthwise convolution of the feed-forward layer needs no copy.

Shapes: B batch, N = h * w tokens, C inner width, L guidance tokens, H heads, D channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.linear_attention import relu_linear_attention
from linearsr.models.rows import pointwise
from linearsr.models.transformer_config import TransformerConfig

QK_NORM_EPS = 1e-5
TIME_CHANNELS = 256
TIME_PERIOD = 10_000.0


def time_features(timestep: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Sinusoids of `timestep` (B,): (B, channels) in float32, cosines first, periods up to 2 pi * 10,000."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep.float()[:, None] * torch.exp(-math.log(TIME_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def modulated_norm(x: Tensor, norm: nn.LayerNorm, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN (PixArt, arXiv 2310.00426): norm(x) * (1 + scale) + shift, with shift and scale (B, 1, C)."""
    return torch.addcmul(shift, norm(x), 1 + scale).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """Root-mean-square norm over the last axis with a learned scale; keeps the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), computed in the wider dtype of input and weight."""
        assert self.weight is not None
        wide = torch.promote_types(x.dtype, self.weight.dtype)
        return F.rms_norm(x.to(wide), [x.shape[-1]], self.weight.to(wide), self.eps).to(x.dtype)


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


class Attention(nn.Module):
    """Projections to queries, keys and values and back, with optional norms; subclasses attend."""

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
        """Attended values (B, H, N, D) -> tokens (B, N, C)."""
        out: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return out

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class LinearSelfAttention(Attention):
    """ReLU linear attention among all tokens of an image."""

    to_qkv: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.project_out(relu_linear_attention(self.queries(x), *self.keys_values(x)))

    def queries(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) -> queries (B, H, N, D)."""
        q = _linear_rows(x, self.to_qkv, 0, 1) if self.fused else self.to_q(x)
        return self._split_heads(q if self.norm_q is None else self.norm_q(q))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> keys and values, each (B, H, N, D)."""
        if self.fused:
            k, v = _linear_rows(x, self.to_qkv, 1, 3).chunk(2, dim=-1)
        else:
            k, v = self.to_k(x), self.to_v(x)
        return self._split_heads(k if self.norm_k is None else self.norm_k(k)), self._split_heads(v)

    @property
    def fused(self) -> bool:
        """Whether one product makes queries, keys and values."""
        return "to_qkv" in self._modules

    def fuse_(self) -> None:
        """Make queries, keys and values in one product; `state_dict` goes on naming the three parts."""
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


def _name_the_three_parts(
    module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Mapping[str, Any]
) -> None:
    for kind in ("weight", "bias"):
        fused = state.pop(f"{prefix}to_qkv.{kind}", None)
        if fused is not None:
            for name, part in zip("qkv", fused.chunk(3), strict=True):
                state[f"{prefix}to_{name}.{kind}"] = part


def _linear_rows(x: Tensor, linear: nn.Linear, first: int, last: int) -> Tensor:
    """The outputs of the thirds `first` to `last` of a fused projection."""
    third = linear.out_features // 3
    rows = slice(first * third, last * third)
    return F.linear(x, linear.weight[rows], None if linear.bias is None else linear.bias[rows])


class CrossAttention(Attention):
    """Softmax attention of image tokens to the few guidance tokens."""

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """(B, N, C), (B, L, C), and a score bias (B, 1, 1, L) -> (B, N, C)."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        return self.project_out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))


class MixFFN(nn.Module):
    """Gated feed-forward layer with a 3x3 depthwise convolution: all that knows where a token lies."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        hidden = int(ratio * width)
        self.channels = 2 * hidden
        self.conv_inverted = nn.Conv2d(width, self.channels, 1)
        self.conv_depth = nn.Conv2d(self.channels, self.channels, 3, padding=1, groups=self.channels)
        self.conv_point = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, height * width, C) -> the same shape."""
        x = F.silu(pointwise(x, self.conv_inverted))
        return pointwise(self._mixed(x, height, width), self.conv_point)

    def _mixed(self, x: Tensor, height: int, width: int) -> Tensor:
        """Hidden tokens (B, N, 2 * hidden), each seeing its neighbours, gated to (B, N, hidden)."""
        image = x.view(len(x), height, width, -1).permute(0, 3, 1, 2)
        value, gate = self.conv_depth(image).permute(0, 2, 3, 1).flatten(1, 2).chunk(2, dim=-1)
        mixed: Tensor = value * F.silu(gate)
        return mixed


class TransformerBlock(nn.Module):
    """Linear self-attention, cross-attention, Mix-FFN; the time modulates the first and the last."""

    processor: Callable[..., Tensor] | None = None
    """Computes (block, ...), as `forward`, in the place of `in_one`."""

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

    def forward(self, *inputs: Any) -> Tensor:
        """As `in_one`, by the processor if there is one."""
        return self.in_one(*inputs) if self.processor is None else self.processor(self, *inputs)

    def in_one(
        self,
        x: Tensor,
        context: Tensor,
        context_bias: Tensor | None,
        modulation: Tensor,
        height: int,
        width: int,
    ) -> Tensor:
        """Tokens (B, N, C), guidance (B, L, C), its score bias, modulation (B, 6, C) -> (B, N, C)."""
        # modulation (adaLN-single): the time shifts, scales and gates what goes through
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = (
            self.scale_shift_table + modulation
        ).chunk(6, dim=1)
        # linear attention: every token to every other, in time that grows with their number
        x = torch.addcmul(x, gate_attn, self.attn1(modulated_norm(x, self.norm1, shift_attn, scale_attn)))
        # cross-attention to the guidance tokens
        x = x + self.attn2(x, context, context_bias)
        # Mix-FFN: the gated layer that also sees the neighbours
        return torch.addcmul(
            x, gate_ff, self.ff(modulated_norm(x, self.norm2, shift_ff, scale_ff), height, width)
        )
