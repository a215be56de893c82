"""The parts of a transformer block in the form that OpenVINO computes best: the same sums in another order.

Shapes: N tokens, C inner width, H heads, D channels of a head, L guidance tokens. All are of one image.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.blocks import (
    CrossAttention,
    LinearSelfAttention,
    MixFFN,
    TimeEmbedding,
    time_frequencies,
)

_EPS = 1e-7
"""Added to the normaliser; still above zero in float16, in which GPUs compute."""


class SplitTimeEmbedding(nn.Module):
    """`TimeEmbedding` whose frequencies are sums of two numbers that float16 holds exactly.

    Constants are written in float16; rounded to that, a frequency would be off by half a radian at a time of 1000.
    """

    def __init__(self, embedding: TimeEmbedding) -> None:
        super().__init__()
        self.embedding = embedding
        frequencies = time_frequencies()
        high = frequencies.half().float()
        self.register_buffer("high", high)
        self.register_buffer("low", (frequencies - high).half().float())

    def forward(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """(1,) in 0..1000 -> modulation (1, 6, C) and embedding (1, 1, C)."""
        time = timestep[:, None]
        angles = time * self.get_buffer("high") + time * self.get_buffer("low")
        features = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.embedding.modulation(features)


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
    """`CrossAttention` to few tokens (1, L, C) that never change: what is known of them goes into the weights."""

    def __init__(self, attention: CrossAttention, context: Tensor) -> None:
        super().__init__()
        self.heads = attention.heads
        self.out_bias = attention.to_out.get_parameter("0.bias")
        with torch.no_grad():
            # (H, L, D)
            k, v = (
                part(context)[0].view(context.shape[1], self.heads, -1).transpose(0, 1)
                for part in (attention.to_k, attention.to_v)
            )
            k = k * k.shape[2] ** -0.5
            of_q = {
                name: value.reshape(self.heads, -1, *value.shape[1:])
                for name, value in attention.to_q.named_parameters()
            }
            of_out = attention.to_out.get_parameter("0.weight").t().reshape(self.heads, -1, context.shape[2])
            self.register_buffer("scorers", (k @ of_q["weight"]).flatten(0, 1))
            self.register_buffer("offsets", (k @ of_q["bias"].unsqueeze(2)).flatten())
            self.register_buffer("values", (v @ of_out).flatten(0, 1).t().contiguous())

    def forward(self, x: Tensor, context: Tensor, bias: Tensor | None) -> Tensor:
        """(1, N, C) -> (1, N, C)."""
        scores = F.linear(x, self.get_buffer("scorers"), self.get_buffer("offsets"))
        weights = scores.view(1, -1, self.heads, context.shape[1]).softmax(-1).flatten(2)
        return F.linear(weights, self.get_buffer("values"), self.out_bias)


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
