"""A model of the full size's make and a toy's size, each part written by the library that writes the real one."""

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import torch

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.pipeline import LinearSRPipeline, PipelineConfig
from linearsr.runtime.checkpoints import write_json
from tiny_encoders import autoencoder_config, write_gemma2, write_tokenizer

TAGS = ("sky", "tree", "brick wall", "ivy", "sea")
NETWORK = replace(PRESETS["tiny"], num_null_tokens=8)


def autoencoder() -> diffusers.AutoencoderDC:
    return diffusers.AutoencoderDC(**autoencoder_config((8,) * 6), scaling_factor=0.41407)


def pipeline(**settings: object) -> LinearSRPipeline:
    """Without guidance."""
    torch.manual_seed(0)
    codec = autoencoder()
    network = LinearSRTransformer(NETWORK)
    for block in network.transformer_blocks:  # it starts at zero, so that guidance would do nothing
        torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.5)
    return LinearSRPipeline(
        StridedStem(StridedStemConfig(channels=8)),
        SNRExperts(Partition(), [network]),
        DeepCompressionCodec(codec.eval()),
        PipelineConfig(num_inference_steps=2, flow_shift=3.0, color_fix="wavelet", name="full", **settings),
    )


def write_full_size_model(folder: Path, **settings: object) -> Path:
    """A small tagger, its tags through Gemma 2; the parts of SANA where SANA has them."""
    pipe = pipeline(**settings)
    pipe.tagger = OwnTagger(OwnTaggerConfig(TAGS, (0.0,) * len(TAGS), 3, image_size=16, num_blocks=2)).eval()
    pipe.save_pretrained(folder)
    write_gemma2(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    add_part(folder, "guidance", "TextGuidance", channels=16)
    return folder


def add_part(folder: Path, part: str, class_name: str, **config: object) -> None:
    """Write a part that is a config alone, and name it in the index, as a person would."""
    (folder / part).mkdir(exist_ok=True)
    write_json(folder / part / "config.json", {"_class_name": class_name, **config})
    index = json.loads((folder / "model_index.json").read_text())
    write_json(folder / "model_index.json", {**index, part: ["linearsr", class_name]})
