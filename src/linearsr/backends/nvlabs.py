"""Converts pickled checkpoints to safetensors: SANA by NVlabs, under the names of `diffusers`, and RAM.

The names correspond as in `scripts/convert_sana_to_diffusers.py` of `diffusers`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import CheckpointError, save_tensors, save_weights, write_json

CROSS_ATTENTION_HEADS = {1152: 16, 2240: 20}
"""Heads by inner width of the published networks; the weights do not tell."""
_HEAD_DIM = 32
"""Channels of a head of the self-attention, in all published networks."""
_FLOW_SHIFT = 3.0
_MOST_PLACES = 1024
"""Latent pixels of a 1024x1024 image; the networks for larger ones add a positional embedding."""
_NAMES = {
    r"^x_embedder\.": "patch_embed.",
    r"^y_embedder\.y_proj\.fc": "caption_projection.linear_",
    r"^t_embedder\.mlp\.0": "time_embed.emb.timestep_embedder.linear_1",
    r"^t_embedder\.mlp\.2": "time_embed.emb.timestep_embedder.linear_2",
    r"^t_block\.1": "time_embed.linear",
    r"^attention_y_norm": "caption_norm",
    r"^final_layer\.linear": "proj_out",
    r"^final_layer\.": "",
    r"^blocks\.": "transformer_blocks.",
    r"\.attn\.": ".attn1.",
    r"\.cross_attn\.": ".attn2.",
    r"\.q_linear\.": ".to_q.",
    r"(attn\d)\.proj\.": r"\1.to_out.0.",
    r"\.([qk])_norm\.": r".norm_\1.",
    r"\.mlp\.(inverted|depth|point)_conv\.conv\.": r".ff.conv_\1.",
}
_JOINED = {"qkv": ("to_q", "to_k", "to_v"), "kv_linear": ("to_k", "to_v")}
"""Layers that are one in NVlabs' checkpoints, with the outputs one after the other."""
_RAM_WEIGHT = "visual_encoder.patch_embed.proj.weight"
_UNUSED = ("y_embedder.y_embedding", "pos_embed")


def convert_pickle(checkpoint: Path, folder: Path) -> tuple[str, int]:
    """Write NVlabs' SANA into `folder` as `diffusers` does, transformer and scheduler, or RAM's weights.

    Only tensors are read from the pickle (`weights_only`); they keep their dtypes.

    Returns:
        "sana" or "ram", and the number of its weights.

    Raises:
        CheckpointError: no such checkpoint, or a variant with parts that `LinearSRTransformer` lacks.
    """
    theirs = _read(checkpoint)
    if _RAM_WEIGHT in theirs:
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "model.safetensors", theirs)
        return "ram", sum(tensor.numel() for tensor in theirs.values())
    _check_variant(theirs, checkpoint)
    state = _renamed({name: tensor for name, tensor in theirs.items() if name not in _UNUSED})
    try:
        config = _config(state)
    except KeyError as error:
        raise CheckpointError(
            f"{checkpoint}: not an NVlabs SANA checkpoint: missing {error.args[0]}"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    network = LinearSRTransformer.from_state(config, state, checkpoint)
    written = {"_class_name": "SanaTransformer2DModel", "cross_attention_dim": config.width, **asdict(config)}
    for ours in (
        "lr_channels",
        "num_null_tokens",
        "prediction_type",
        "lr_skip",
        "detail_blocks",
        "detail_channels",
    ):
        del written[ours]
    save_weights(folder / "transformer", written, state)
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": _FLOW_SHIFT}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    return "sana", sum(p.numel() for p in network.parameters())


def _read(checkpoint: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
    # for other files the unpickler raises errors of any kind, and advises to execute what they hold
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint}: cannot be read as plain weights; use the .pth file that its authors published"
        ) from error
    state = found.get("state_dict", found.get("model", found)) if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{checkpoint}: holds no tensors by name, as the checkpoints of NVlabs do")
    return state


def _check_variant(state: Mapping[str, Tensor], checkpoint: Path) -> None:
    if any(name.startswith("cfg_embedder.") for name in state):
        raise CheckpointError(
            f"{checkpoint}: distilled with a guidance embedding (Sprint); use a SANA without one"
        )
    if "pos_embed" in state and state["pos_embed"].shape[1] > _MOST_PLACES:
        raise CheckpointError(f"{checkpoint}: has a positional embedding; use a SANA for 512 or 1024 pixels")


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for theirs, tensor in state.items():
        name = theirs
        for pattern, replacement in _NAMES.items():
            name = re.sub(pattern, replacement, name)
        layer, _, kind = name.rpartition(".")
        block, _, joined = layer.rpartition(".")
        if joined not in _JOINED:
            renamed[name] = tensor
            continue
        parts = _JOINED[joined]
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            renamed[f"{block}.{part}.{kind}"] = rows
    return renamed


def _config(state: Mapping[str, Tensor]) -> TransformerConfig:
    """Infer the config from the weights' shapes.

    Raises KeyError for a weight that is missing, ValueError for an unknown width.
    """
    width, in_channels, patch_size, _ = state["patch_embed.proj.weight"].shape
    if width not in CROSS_ATTENTION_HEADS:
        known = " and ".join(map(str, CROSS_ATTENTION_HEADS))
        raise ValueError(f"a width of {width}, where the published networks have {known}")
    blocks = {name.split(".")[1] for name in state if name.startswith("transformer_blocks.")}
    first = "transformer_blocks.0."
    return TransformerConfig(
        in_channels=in_channels,
        out_channels=len(state["proj_out.weight"]) // patch_size**2,
        num_attention_heads=width // _HEAD_DIM,
        attention_head_dim=_HEAD_DIM,
        num_layers=len(blocks),
        num_cross_attention_heads=CROSS_ATTENTION_HEADS[width],
        cross_attention_head_dim=width // CROSS_ATTENTION_HEADS[width],
        caption_channels=state["caption_projection.linear_1.weight"].shape[1],
        mlp_ratio=len(state[first + "ff.conv_inverted.weight"]) / 2 / width,
        attention_bias=first + "attn1.to_q.bias" in state,
        patch_size=patch_size,
        qk_norm="rms_norm_across_heads" if first + "attn1.norm_q.weight" in state else None,
    )
