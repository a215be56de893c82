"""The parts of a transformer block in the form that OpenVINO computes best: the same sums in another order.

Shapes: N tokens, C inner width, H heads, D channels of a head, L guidance tokens. All are of one image.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.blocks import CrossAttention, LinearSelfAttention, MixFFN

_EPS = 1e-7
"""Added to the normaliser; still above zero in float16, in which GPUs compute."""


class WideLinearAttention(nn.Module):
    """`LinearSelfAttention` of all heads in one product, which costs less than to lay them out one by one.

    Keys and values are averaged over the tokens, where the formula sums them: a sum exceeds float16 on a GPU.
    """

    def __init__(self, attention: LinearSelfAttention) -> None:
        super().__init__()
        self.attention = attention
        out = cast(nn.Linear, attention.to_out[0])
        head = torch.arange(out.in_features) * attention.heads // out.in_features
        self.register_buffer("of_head", F.one_hot(head, attention.heads).to(out.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(1, N, C) -> (1, N, C)."""
        own, out = self.attention, cast(nn.Linear, self.attention.to_out[0])
        q = F.relu(own.queries(x)).transpose(1, 2).flatten(2)
        k, v = (part.transpose(1, 2).flatten(2) for part in own.keys_values(x))
        k, share = F.relu(k), x.shape[1] ** -0.5
        of_head = self.get_buffer("of_head")
        # (H * D, H * D), in which a head sees its own channels only
        averages = (k * share).transpose(1, 2) @ (v * share) * (of_head @ of_head.t())
        weights = q * k.mean(1, keepdim=True)
        normaliser = (weights @ of_head + _EPS).reciprocal() @ of_head.t()
        return F.linear(q * normaliser, (averages @ out.weight.t())[0].t(), out.bias)


class FoldedCrossAttention(nn.Module):
    """`CrossAttention` to few tokens that never change: what is known of them goes into the weights."""

    def __init__(self, attention: CrossAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """(1, N, C), (1, L, C) -> (1, N, C)."""
        own, out = self.attention, cast(nn.Linear, self.attention.to_out[0])
        count, heads = context.shape[1], own.heads
        k, v = (
            part(context)[0].view(count, heads, -1).transpose(0, 1) for part in (own.to_k, own.to_v)
        )  # (H, L, D)
        k = k * k.shape[-1] ** -0.5
        scorers = (k @ own.to_q.weight.view(heads, -1, x.shape[2])).flatten(0, 1)
        offsets = (k @ own.to_q.bias.view(heads, -1, 1)).flatten()
        values = (v @ out.weight.t().view(heads, -1, out.out_features)).flatten(0, 1)
        weights = F.linear(x, scorers, offsets).view(1, -1, heads, count).softmax(-1).flatten(2)
        return F.linear(weights, values.t(), out.bias)


class ImageFFN(nn.Module):
    """`MixFFN` as convolutions of an image, value and gate apart, so that nothing between them is laid out anew."""

    def __init__(self, ff: MixFFN) -> None:
        super().__init__()
        self.ff = ff

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(1, height * width, C) -> the same shape."""
        image = x.reshape(1, height, width, -1).permute(0, 3, 1, 2)
        value, gate = self._half(image, 0), self._half(image, 1)
        mixed: Tensor = self.ff.conv_point(value * F.silu(gate))
        return mixed.flatten(2).transpose(1, 2)

    def _half(self, image: Tensor, index: int) -> Tensor:
        """The hidden layer (1, hidden, h, w) of values, or that of gates."""
        (w_in, b_in), (w_depth, b_depth) = (
            tuple(conv.get_parameter(name).chunk(2)[index] for name in ("weight", "bias"))
            for conv in (self.ff.conv_inverted, self.ff.conv_depth)
        )
        hidden = F.silu(F.conv2d(image, w_in, b_in))
        return F.conv2d(hidden, w_depth, b_depth, padding=1, groups=len(w_depth))
