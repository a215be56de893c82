"""A LinearSR model of a few thousand random weights, for tests that need one on disk."""

from dataclasses import replace

import torch

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import PUBLISHED
from linearsr.models.codec import ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.pipeline import LinearSRPipeline, PipelineConfig


def build(scale: int = 4) -> LinearSRPipeline:
    torch.manual_seed(0)
    codec = ResidualCodec(ResidualCodecConfig())
    stem = PredictiveStemConfig(scale=scale, channels=8, num_blocks=1, patch=codec.compression // scale)
    shape = {"in_channels": 192, "out_channels": 192, "prediction_type": "sample"}
    shape["lr_channels"] = stem.channels * stem.patch**2
    network = replace(PRESETS["tiny"], **shape)
    experts = SNRExperts(PUBLISHED, [LinearSRTransformer(network) for _ in range(PUBLISHED.num_experts)])
    return LinearSRPipeline(PredictiveStem(stem), experts, codec, PipelineConfig(name="tiny"))
