"""Turns a SANA in `diffusers` format into a LinearSR folder of full size, as a start for training."""

import json
from pathlib import Path

import torch

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.guidance.text import TextGuidance, TextGuidanceConfig
from linearsr.model_folder import MODEL_INDEX, read_index
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline, PipelineConfig
from linearsr.runtime.checkpoints import CheckpointError, load_config

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
LR_CHANNELS = 32
NULL_TOKENS = 8
_SCALE = 4
_STEPS = 20
"""Steps with which SANA is sampled; distillation reduces them."""


def is_sana(folder: Path) -> bool:
    """Return whether a folder holds a SANA pipeline, or at least its transformer and autoencoder."""
    if (folder / MODEL_INDEX).is_file():
        return str(read_index(folder).get("_class_name", "")).startswith("Sana")
    return (folder / "transformer").is_dir() and (folder / "vae").is_dir()


def start_from_sana(folder: Path, dtype: torch.dtype | None = None) -> LinearSRPipeline:
    """Return a pipeline with SANA's transformer as its one expert, its autoencoder and its text encoder.

    The text encoder may be missing. The LR stem and the null tokens are new, and the network's LR inputs
    start at zero: until it is trained, it paints what SANA would, whatever the LR image.

    Args:
        folder: `transformer`, `vae` and, if guided by text, `text_encoder` and `tokenizer`, as `diffusers`
            writes them.
        dtype: dtype of the weights; None: as stored.

    Raises:
        CheckpointError: a part is missing, damaged, or of a variant that this network cannot hold.
    """
    network = LinearSRTransformer.from_sana(folder / "transformer", LR_CHANNELS, NULL_TOKENS, dtype)
    codec = DeepCompressionCodec.from_pretrained(folder / "vae", dtype)
    if codec.latent_channels != network.config.in_channels:
        raise CheckpointError(
            f"{folder}: the autoencoder has {codec.latent_channels} channels, the transformer takes "
            f"{network.config.in_channels}"
        )
    # halvings of the resolution between the LR image and the latent
    halvings = (codec.compression // _SCALE).bit_length() - 1
    config = PipelineConfig(
        name=f"LinearSR from {folder.name}",
        num_inference_steps=_STEPS,
        flow_shift=_flow_shift(folder),
        color_fix="wavelet",
    )
    return LinearSRPipeline(
        StridedStem(StridedStemConfig(_SCALE, LR_CHANNELS, halvings)).to(network.scale_shift_table.dtype),
        SNRExperts(Partition(), [network]),
        codec,
        config,
        _text_guidance(folder, network.config.caption_channels),
    )


def _flow_shift(folder: Path) -> float:
    try:
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 1.0
    except ValueError as error:
        raise CheckpointError(f"{folder}/scheduler/scheduler_config.json: no JSON ({error})") from error
    return float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)


def _text_guidance(folder: Path, channels: int) -> TextGuidance | None:
    if not (folder / "text_encoder").is_dir():
        return None
    tokenizer = "tokenizer" if (folder / "tokenizer").is_dir() else ""
    width = load_config(folder / "text_encoder").get("hidden_size", channels)
    if width != channels:
        raise CheckpointError(
            f"{folder}/text_encoder: {width} channels, and the transformer takes {channels}"
        )
    guidance = TextGuidance(TextGuidanceConfig(tokenizer=tokenizer, channels=channels))
    guidance.model_folder = folder.absolute()
    return guidance
