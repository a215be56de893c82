"""Quadratic attention in the place of linear attention: the network that ours is compared with."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor

from linearsr.models.blocks import Attention, LinearSelfAttention, TransformerBlock
from linearsr.models.transformer import LinearSRTransformer


class SoftmaxSelfAttention(Attention):
    """Attention of every token to every other one, by PyTorch's fused kernel: O(N^2) in the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        return self.project_out(F.scaled_dot_product_attention(q, k, v))


def with_softmax_attention(network: LinearSRTransformer) -> LinearSRTransformer:
    """A copy whose self-attention is quadratic, with the same weights."""
    config, table = network.config, network.scale_shift_table
    plain = LinearSRTransformer.from_state(config, network.state_dict(), "the network").to(table.device)
    for block in plain.transformer_blocks:
        ours = cast(LinearSelfAttention, block.attn1)
        width, heads, head_dim = config.width, config.num_attention_heads, config.attention_head_dim
        quadratic = SoftmaxSelfAttention(width, heads, head_dim, config.attention_bias, config.qk_norm)
        quadratic.load_state_dict(ours.state_dict())
        block.attn1 = quadratic.to(table.device, table.dtype)
        # bands are sums of linear attention
        cast(TransformerBlock, block).processor = None
    return plain.eval()
