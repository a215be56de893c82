"""LR stems and codecs: sizes, the residual's exactness, and the DC-AE adapter against diffusers."""

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.models.codec import ResidualCodec, ResidualCodecConfig, pad_to_multiple
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import (
    LRCondition,
    PredictiveStem,
    PredictiveStemConfig,
    StridedStem,
    StridedStemConfig,
)
from linearsr.runtime.checkpoints import CheckpointError
from linearsr.training.stem import StemStage


@pytest.fixture(scope="module")
def stem() -> PredictiveStem:
    torch.manual_seed(0)
    stem = PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=2))
    with torch.no_grad():
        for parameter in stem.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return stem.eval()


def test_strided_stem_reaches_the_grid_of_a_32x_autoencoder() -> None:
    stem = StridedStem(StridedStemConfig(channels=5))
    assert stem(torch.zeros(2, 3, 64, 24)).features.shape == (2, 5, 8, 3)
    assert stem.multiple_of == 8


def test_a_fresh_predictive_stem_is_bicubic() -> None:
    lr = torch.rand(1, 3, 6, 8) * 2 - 1
    condition = PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1)).eval()(lr)
    expected = torch.nn.functional.interpolate(lr, scale_factor=4, mode="bicubic", antialias=True)
    assert torch.equal(condition.prediction, expected)
    assert condition.features.shape == (1, 32, 3, 4)
    assert (condition.deviation > 0).all()


def test_features_and_deviation_send_no_gradient_into_the_prediction(stem: PredictiveStem) -> None:
    condition = stem(torch.rand(1, 3, 4, 4))
    (condition.deviation.sum() + condition.features.sum()).backward()
    assert stem.conv_in.weight.grad is None
    assert stem.deviation_head[0].weight.grad is not None
    stem.zero_grad(set_to_none=True)


def test_a_grown_stem_begins_as_the_old_one_and_learns(stem: PredictiveStem) -> None:
    lr = torch.rand(2, 3, 8, 6) * 2 - 1
    grown = stem.grown(num_blocks=4, summary_channels=6).eval()
    for before, after in zip(stem(lr), grown(lr), strict=True):
        torch.testing.assert_close(after, before)
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for _ in range(2):  # what starts at zero passes gradients on from the second step
        optimizer.zero_grad()
        grown(lr).prediction.square().mean().backward()
        optimizer.step()
    for name in ("blocks.3.conv_1.weight", "blocks.3.conv_2.weight", "summary.layers.0.weight"):
        assert grown.get_parameter(name).grad.abs().max() > 0, name


def test_a_summary_lets_a_block_know_of_the_far_side(stem: PredictiveStem) -> None:
    """Without one, a pixel of the prediction does not depend on what is out of reach of the convolutions."""
    grown = stem.grown(summary_channels=6).eval()
    torch.nn.init.normal_(grown.summary.to_modulation.weight)
    near, far = torch.zeros(1, 3, 8, 64), torch.zeros(1, 3, 8, 64)
    far[..., 60:] = torch.rand(4, generator=torch.Generator().manual_seed(0))
    for model, sees in ((stem, False), (grown, True)):
        with torch.no_grad():
            difference = (model(near).prediction - model(far).prediction)[..., :64].abs().max()
        assert (float(difference) > 1e-6) is sees


@pytest.mark.parametrize("changes", [{"num_blocks": 1}, {"channels": 16}, {"patch": 4}])
def test_a_stem_grows_in_no_other_way(stem: PredictiveStem, changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="can only be given more num_blocks"):
        stem.grown(**changes)
    with pytest.raises(ValueError, match="cannot grow"):
        stem.grown(summary_channels=4).grown(num_blocks=5)


def test_features_reach_unit_deviation_in_training() -> None:
    torch.manual_seed(0)
    stem = PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1)).train()
    for _ in range(600):
        stem(torch.rand(2, 3, 8, 8) * 2 - 1)
    features = stem.eval()(torch.rand(64, 3, 8, 8) * 2 - 1).features
    # unshuffled: four positions of each of the eight channels
    deviations = features.reshape(64, 8, 4, 4, 4).std(dim=(0, 2, 3, 4))
    assert deviations == pytest.approx(torch.ones(8), rel=0.15)


def test_a_stem_that_is_trained_on_keeps_the_scale_of_its_features(tmp_path: Path) -> None:
    PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=1)).save_pretrained(tmp_path)

    def after_a_step(**grown: int) -> torch.Tensor:
        network = StemStage(kind="stem", init=tmp_path, stem=grown).objective().network.train()
        network(torch.rand(2, 3, 16, 16) * 4)
        return network.feature_norm.running_var

    assert torch.equal(after_a_step(), torch.ones(8))
    assert not torch.equal(after_a_step(num_blocks=2), torch.ones(8))


@given(st.floats(-1e6, 1e6), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_no_image_makes_blocks_multiply_without_bound(size: float, seed: int) -> None:
    torch.manual_seed(seed)
    stem = PredictiveStem(PredictiveStemConfig(channels=8, num_blocks=3, summary_channels=4))
    torch.nn.init.normal_(stem.summary.to_modulation.weight)
    x = size * torch.randn(1, 8, 6, 7)
    assert stem.summary.modulation(stem.summary.mean(x)).abs().max() <= 1


@given(st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_the_residual_codec_loses_nothing(stem: PredictiveStem, rows: int, columns: int) -> None:
    codec = ResidualCodec(ResidualCodecConfig())
    lr, hr = torch.rand(2, 3, 2 * rows, 2 * columns) * 2 - 1, torch.rand(2, 3, 8 * rows, 8 * columns) * 2 - 1
    condition = stem(lr)
    latent = codec.encode(hr, condition)
    assert latent.shape == (2, codec.latent_channels, rows, columns)
    torch.testing.assert_close(codec.decode(latent, condition), hr, atol=1e-5, rtol=0)
    assert torch.equal(codec.decode(torch.zeros_like(latent), condition), condition.prediction)


def test_the_residual_codec_needs_a_prediction() -> None:
    with pytest.raises(ValueError, match="PredictiveStem"):
        ResidualCodec(ResidualCodecConfig()).encode(torch.zeros(1, 3, 8, 8), LRCondition(torch.zeros(1)))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
@settings(max_examples=80, deadline=None)
def test_padding_is_undone_by_a_crop(height: int, width: int, multiple: int) -> None:
    image = torch.rand(1, 3, height, width)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] < height + multiple
    assert padded.shape[-1] < width + multiple
    assert torch.equal(padded[..., :height, :width], image)


def test_padding_reflects() -> None:
    row = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    assert pad_to_multiple(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


@pytest.fixture(scope="module")
def dc_ae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    from full_size_model import autoencoder

    folder = tmp_path_factory.mktemp("dc_ae")
    autoencoder().save_pretrained(folder)
    return folder


def test_dc_ae_adapter_scales_as_diffusers_pipelines_do(dc_ae_folder: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    original = diffusers.AutoencoderDC.from_pretrained(dc_ae_folder)
    codec = DeepCompressionCodec.from_pretrained(dc_ae_folder)
    codec.save_pretrained(tmp_path)
    again = DeepCompressionCodec.from_pretrained(tmp_path)
    assert (codec.compression, codec.latent_channels) == (32, 8)
    image, condition = torch.rand(1, 3, 64, 96) * 2 - 1, LRCondition(torch.zeros(1))
    with torch.no_grad():
        latent = original.encode(image).latent * 0.41407
        assert torch.equal(codec.encode(image, condition), latent)
        assert torch.equal(again.decode(latent, condition), original.decode(latent / 0.41407).sample)


def test_dc_ae_refuses_float16(dc_ae_folder: Path) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        DeepCompressionCodec.from_pretrained(dc_ae_folder, torch.float16)
    codec = DeepCompressionCodec.from_pretrained(dc_ae_folder)
    for arguments in ({"dtype": torch.float16}, {"device": "cpu", "dtype": torch.float16}):
        with pytest.raises(ValueError, match="bfloat16"):
            codec.to(**arguments)
    assert codec.to("cpu", torch.bfloat16).autoencoder.dtype == torch.bfloat16


def test_dc_ae_is_written_in_another_type_without_a_word(
    dc_ae_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = DeepCompressionCodec.from_pretrained(dc_ae_folder)
    monkeypatch.setattr(logging.getLogger("diffusers"), "propagate", True)
    codec.save_pretrained(tmp_path, torch.bfloat16)
    assert not caplog.records
    assert codec.autoencoder.dtype == torch.float32
    assert DeepCompressionCodec.from_pretrained(tmp_path, torch.bfloat16).autoencoder.dtype == torch.bfloat16


def test_another_autoencoder_is_no_dc_ae(dc_ae_folder: Path, tmp_path: Path) -> None:
    config = (dc_ae_folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("AutoencoderDC", "AutoencoderKL"))
    with pytest.raises(CheckpointError, match=r"holds AutoencoderKL, not a DC-AE \(AutoencoderDC\)"):
        DeepCompressionCodec.from_pretrained(tmp_path)


def test_dc_ae_refuses_pickles(dc_ae_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((dc_ae_folder / "config.json").read_bytes())
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        DeepCompressionCodec.from_pretrained(tmp_path)
