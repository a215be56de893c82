"""The sizes of the network, in one table."""

from __future__ import annotations

from linearsr.models.transformer_config import TransformerConfig

PRESETS: dict[str, TransformerConfig] = {
    "tiny": TransformerConfig(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        caption_channels=16,
        lr_channels=8,
        num_null_tokens=2,
    ),
    "default": TransformerConfig(
        in_channels=192,
        out_channels=192,
        num_attention_heads=6,
        attention_head_dim=32,
        num_layers=6,
        num_cross_attention_heads=6,
        cross_attention_head_dim=32,
        caption_channels=64,
        lr_channels=256,
        num_null_tokens=8,
        prediction_type="sample",
        lr_skip=True,
    ),
    "600m": TransformerConfig(lr_channels=32, num_null_tokens=8),
    "1600m": TransformerConfig(
        num_attention_heads=70,
        num_layers=20,
        num_cross_attention_heads=20,
        cross_attention_head_dim=112,
        lr_channels=32,
        num_null_tokens=8,
    ),
}
"""`tiny` is for tests, `default` is ours, the rest are SANA's published sizes with an LR input."""
