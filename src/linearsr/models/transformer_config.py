"""The settings of the transformer, its preset sizes, and their derivation from SANA's settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal, get_args

from linearsr.models.residual import FINE
from linearsr.runtime.checkpoints import CONFIG_NAME, CheckpointError, StrPath
from linearsr.runtime.files import prefixed

PredictionType = Literal["flow_prediction", "sample"]
"""What a network predicts: the velocity v = noise - data, or the clean data."""
QK_NORMS = (None, "rms_norm_across_heads")


@dataclass(frozen=True)
class TransformerConfig:
    """Settings of a `LinearSRTransformer`; the first fields mean the same as in SANA's config."""

    in_channels: int = 32
    """Channels of the noisy latent."""
    out_channels: int = 32
    """Channels of the prediction."""
    num_attention_heads: int = 36
    """Heads of the linear self-attention; heads times channels of a head is the inner width."""
    attention_head_dim: int = 32
    """Channels per head of the linear self-attention."""
    num_layers: int = 28
    """Transformer blocks."""
    num_cross_attention_heads: int = 16
    """Heads of the softmax attention to the guidance tokens."""
    cross_attention_head_dim: int = 72
    """Channels per head of the cross-attention."""
    caption_channels: int = 2304
    """Channels of a guidance token."""
    mlp_ratio: float = 2.5
    """Hidden width of the Mix-FFN over the inner width."""
    attention_bias: bool = False
    """Whether the projections of the self-attention have biases."""
    patch_size: int = 1
    """Latent pixels along one side of a token."""
    norm_elementwise_affine: bool = False
    """Whether the norm before the Mix-FFN has a learned scale and shift."""
    norm_eps: float = 1e-6
    """Epsilon of the block norms."""
    qk_norm: str | None = None
    """None, or "rms_norm_across_heads" as in SANA-1.5."""
    timestep_scale: float = 1.0
    """Factor on the timestep (0..1000) before it is embedded."""
    lr_channels: int = 0
    """Channels of the LR features, on the grid of the latent; 0: none."""
    num_null_tokens: int = 0
    """Number of learned guidance tokens, used when none are given; 0: guidance must be given."""
    prediction_type: PredictionType = "flow_prediction"
    """What the network predicts: "flow_prediction", the velocity noise - data; "sample", the clean latent."""
    lr_skip: bool = False
    """Whether a 1x1 convolution, zero at the start, adds the LR features straight to the output."""
    detail_blocks: int = 0
    """Residual blocks of a `DetailHead` for latents of unshuffled pixels; 0: a linear output layer."""
    detail_channels: int = 64
    """Channels of those blocks."""

    def __post_init__(self) -> None:
        for name in (
            "in_channels",
            "out_channels",
            "num_attention_heads",
            "attention_head_dim",
            "num_layers",
            "num_cross_attention_heads",
            "cross_attention_head_dim",
            "caption_channels",
            "patch_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.lr_channels, self.num_null_tokens) < 0:
            raise ValueError("lr_channels and num_null_tokens must be at least 0")
        if self.qk_norm not in QK_NORMS:
            raise ValueError(f"qk_norm must be null or {QK_NORMS[1]}, not {self.qk_norm}")
        if self.prediction_type not in get_args(PredictionType):
            raise ValueError(
                f"prediction_type must be one of {', '.join(get_args(PredictionType))}, not {self.prediction_type}"
            )
        if (self.lr_skip or self.detail_blocks) and not self.lr_channels:
            raise ValueError("lr_skip and detail_blocks need lr_channels > 0")
        if self.detail_blocks:
            self._check_detail()

    def with_detail(self, blocks: int) -> TransformerConfig:
        """Return the config of the same network with a `DetailHead` as its output."""
        return dataclasses.replace(self, detail_blocks=blocks, lr_skip=False)

    def _check_detail(self) -> None:
        patch = isqrt(self.out_channels // 3)
        fits = 3 * patch**2 == self.out_channels and patch % FINE == 0 and self.lr_channels % FINE**2 == 0
        if not fits or self.patch_size > 1 or self.lr_skip:
            raise ValueError(
                "detail_blocks need latents of pixel-unshuffled RGB patches of even size, lr_channels a multiple of "
                f"{FINE**2}, patch_size 1, and no lr_skip"
            )

    @property
    def width(self) -> int:
        """Inner width C: channels of a token inside the network."""
        return self.num_attention_heads * self.attention_head_dim


def config_from_sana(
    raw: Mapping[str, Any],
    lr_channels: int,
    num_null_tokens: int,
    folder: StrPath,
    caption_channels: int | None = None,
) -> TransformerConfig:
    """Return the config of a network that starts from a SANA transformer.

    Args:
        raw: the `config.json` in its `folder`, as `diffusers` writes it.
        lr_channels, num_null_tokens: of the new network; SANA has neither.
        caption_channels: of the new network; None: as in SANA.

    Raises:
        CheckpointError: no such config, or a variant with parts that this network lacks.
    """
    place = os.fspath(folder)
    if raw.get("_class_name") != "SanaTransformer2DModel":
        raise CheckpointError(
            f"{place}: written for {raw.get('_class_name')}, not for SanaTransformer2DModel"
        )
    if raw.get("interpolation_scale") is not None:
        raise CheckpointError(f"{place}: has a positional embedding; use a SANA for 512 or 1024 pixels")
    if raw.get("guidance_embeds"):
        raise CheckpointError(
            f"{place}: distilled with a guidance embedding (Sprint); use a SANA without one"
        )
    known = {field.name for field in dataclasses.fields(TransformerConfig)}
    values = {key: value for key, value in raw.items() if key in known and value is not None}
    if caption_channels is not None:
        values["caption_channels"] = caption_channels
    with prefixed(f"{place}/{CONFIG_NAME}: ", CheckpointError, (TypeError, ValueError)):
        config = TransformerConfig(**values, lr_channels=lr_channels, num_null_tokens=num_null_tokens)
    if raw.get("cross_attention_dim", config.width) != config.width:
        raise CheckpointError(
            f"{place}: cross_attention_dim {raw['cross_attention_dim']} is not {config.width}"
        )
    return config


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
