"""The full size by strips of rows: DC-AE with its own linear attention, a strided stem, a velocity network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import StridedStem, StridedStemConfig
from linearsr.models.rows import through, total_of
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.pipeline import LinearSRPipeline, PipelineConfig
from strips import in_strips
from test_streaming import levels_apart, lively, photo
from tiny_encoders import autoencoder_config

diffusers = pytest.importorskip("diffusers")


def autoencoder(upsample: str, layers_at_the_top: int, in_shortcut: bool = True) -> torch.nn.Module:
    torch.manual_seed(3)
    decoder = {
        "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock", "EfficientViTBlock"),
        "decoder_layers_per_block": (layers_at_the_top, 1, 2, 1),
        "decoder_qkv_multiscales": ((), (), (5,), (3, 5)),
        "decoder_norm_types": "rms_norm",
        "decoder_in_shortcut": in_shortcut,
        "upsample_block_type": upsample,
    }
    sizes = {**autoencoder_config(), "latent_channels": 4, "attention_head_dim": 4, "scaling_factor": 0.5}
    return lively_norms(diffusers.AutoencoderDC(**{**sizes, **decoder}).eval())


def lively_norms(model: torch.nn.Module) -> torch.nn.Module:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.0)
    return model


@pytest.mark.parametrize(
    ("upsample", "layers", "in_shortcut"),
    [("interpolate", 1, True), ("pixel_shuffle", 0, True), ("pixel_shuffle", 2, False)],
)
@given(height=st.integers(3, 12), width=st.integers(3, 7), strip=st.integers(1, 5))
@settings(max_examples=5, deadline=None)
@torch.inference_mode()
def test_the_decoder_by_rows_is_that_of_diffusers(upsample, layers, in_shortcut, height, width, strip):
    model = autoencoder(upsample, layers, in_shortcut)
    latent = torch.randn(2, 4, height, width)
    x, total = latent * model.config.scaling_factor, None
    for stage in DeepCompressionCodec(model).stages():
        strips = x.split(strip * x.shape[2] // height, dim=2)
        x = torch.cat(list(through(stage.layers(total), strips)), dim=2)
        assert x.shape[1:] == (stage.channels, height * stage.scale, width * stage.scale)
        total = total_of(stage.survey(), x.split(strip * stage.scale, dim=2)) if stage.survey else None
    expected = model.decode(latent).sample
    torch.testing.assert_close(x, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("strip", [8, 16, None])
def test_the_full_size_by_strips(tmp_path, strip):
    # 8x in the latent, as a stem of one strided layer makes it
    pipe = LinearSRPipeline(
        StridedStem(StridedStemConfig(channels=8, num_layers=1)).eval(),
        SNRExperts(Partition(), [network()]),
        DeepCompressionCodec(autoencoder("pixel_shuffle", 1)),
        PipelineConfig(num_inference_steps=2, color_fix="wavelet", flow_shift=3.0),
    )
    lively(pipe)
    image = photo(22, 17)
    whole = pipe(image, output_type="np", stream=False).images[0]
    for folder in (None, tmp_path / "work"):
        rows = in_strips(pipe, image, strip_rows=strip, work_folder=folder)
        assert np.abs(rows - whole).max() < 1e-4
        assert levels_apart(rows, whole) <= 1


def network() -> LinearSRTransformer:
    return LinearSRTransformer(
        replace(PRESETS["tiny"], in_channels=4, out_channels=4, lr_channels=8, patch_size=1)
    ).eval()
