"""`linearsr convert --to openvino`: the same pictures, whatever computes them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from linearsr import LinearSRPipeline
from linearsr.backends.openvino_export import export
from linearsr.cli.app import app
from linearsr.images.photos import read_rgb
from linearsr.model_folder import default_model_folder
from tiny_model import tiny_model

__all__ = ["tiny_model"]

pytest.importorskip("openvino")

PHOTO = Path(__file__).parent / "data/church.png"


def linearsr(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def load(folder: Path | None) -> LinearSRPipeline:
    return LinearSRPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")


def noise_image(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))


def psnr(found: Tensor, expected: Tensor) -> float:
    return float(-10 * torch.log10((found - expected).square().mean()))


@pytest.fixture(scope="module")
def exact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as IR with weights in float32."""
    folder = tmp_path_factory.mktemp("exact")
    export(tiny_model, folder, load(tiny_model), float16=False)
    return folder


@pytest.fixture(scope="module")
def converted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    result = linearsr("convert", tiny_model, "--to", "openvino", "-o", folder)
    assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def torch_is_out_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch would compute of stem and experts fails."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch was asked")

    monkeypatch.setattr("linearsr.models.lr_stem.PredictiveStem.forward", fail)
    monkeypatch.setattr("linearsr.models.transformer.LinearSRTransformer.forward", fail)


SIZES = [(16, 16), (9, 22), (31, 5), (1, 1)]


@pytest.mark.parametrize("steps", [1, 4])
def test_float32_is_that_of_torch(
    tiny_model: Path, exact: Path, steps: int, request: pytest.FixtureRequest
) -> None:
    images = [noise_image(*size) for size in SIZES]
    expected = load(tiny_model)(images, num_inference_steps=steps, output_type="pt").images
    pipeline = load(exact)
    request.getfixturevalue("torch_is_out_of_work")
    found = pipeline(images, num_inference_steps=steps, output_type="pt").images
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5)


def test_float16_weights_are_close_and_the_same_twice(tiny_model: Path, converted: Path) -> None:
    image = noise_image(20, 28)
    expected = load(tiny_model)(image, num_inference_steps=4, output_type="pt").images[0]
    first, second = (
        load(converted)(image, num_inference_steps=4, output_type="pt").images[0] for _ in range(2)
    )
    assert psnr(first, expected) > 50
    assert torch.equal(first, second)


def test_the_default_model_is_close_to_torch(tmp_path: Path) -> None:
    reference = load(None)
    photo = read_rgb(PHOTO)[:24, :32]
    expected = reference(photo, num_inference_steps=4, output_type="pt").images[0]
    export(default_model_folder(), tmp_path, reference)
    found = load(tmp_path)(photo, num_inference_steps=4, output_type="pt").images[0]
    assert psnr(found, expected) > 45
