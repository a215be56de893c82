"""Other networks of the same size, to compare ours with: quadratic attention, and the class of `diffusers`."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.models.blocks import Attention, LinearSelfAttention, TransformerBlock
from linearsr.models.transformer import LinearSRTransformer

Rival = Literal["softmax", "diffusers"]
RIVALS: tuple[Rival, ...] = get_args(Rival)
_SANA_FIELDS = {
    *("out_channels", "num_attention_heads", "attention_head_dim", "num_layers", "num_cross_attention_heads"),
    *("cross_attention_head_dim", "caption_channels", "mlp_ratio", "attention_bias", "patch_size", "qk_norm"),
}


class SoftmaxSelfAttention(Attention):
    """Attention of every token to every other one, by PyTorch's fused kernel: O(N^2) in the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self._split_heads(q), self._split_heads(k), self._split_heads(v)
        return self.project_out(F.scaled_dot_product_attention(q, k, v))


def rival_call(rival: Rival, network: LinearSRTransformer, inputs: dict[str, Any]) -> Callable[[], object]:
    """One evaluation by a rival of `network`, with as many weights and the same `inputs`."""
    if rival == "softmax":
        quadratic = with_softmax_attention(network)
        return lambda: quadratic(**inputs)
    theirs = like_ours(network)
    latent, features = inputs["hidden_states"], inputs["lr_features"]
    image = latent if features is None else torch.cat([latent, features], dim=1)
    tokens = inputs["encoder_hidden_states"]
    if tokens is None:
        tokens = network.null_tokens.expand(len(latent), -1, -1)
    return lambda: theirs(image, tokens, inputs["timestep"])


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


def like_ours(network: LinearSRTransformer) -> Any:
    """A `diffusers.SanaTransformer2DModel` of the same sizes, with weights of its own.

    Needs the extra `full`.
    """
    from diffusers import SanaTransformer2DModel

    ours = network.config
    alike = {field.name: getattr(ours, field.name) for field in fields(ours) if field.name in _SANA_FIELDS}
    inputs = ours.in_channels + ours.lr_channels
    theirs = SanaTransformer2DModel(in_channels=inputs, cross_attention_dim=ours.width, **alike)
    table = network.scale_shift_table
    # their own `to` warns of modules to keep in float32, of which there are none
    return nn.Module.to(theirs, table.device, table.dtype).eval()
