"""`linearsr convert --to openvino`: the same pictures, whatever computes them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

from linearsr import LinearSRPipeline
from linearsr.backends.openvino_export import export
from linearsr.checkpoints import CheckpointError
from linearsr.cli.app import app
from linearsr.images.photos import read_rgb
from linearsr.model_folder import default_model_folder
from linearsr.models.int8 import find_ranges
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.serving import worker
from tiny_model import build, tiny_model

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
    assert psnr(found, expected) > 60


def test_saved_again_it_is_a_model_for_torch(converted: Path, tmp_path: Path) -> None:
    load(converted).save_pretrained(tmp_path)
    assert load(tmp_path).config.backend == "torch"
    assert not list(tmp_path.rglob("openvino_model.*"))


def test_strips_of_rows_and_batches_go_through_torch(tiny_model: Path, converted: Path) -> None:
    image = noise_image(40, 24)
    ours, theirs = load(converted), load(tiny_model)
    found = ours(image, stream=True, output_type="pt").images[0]
    assert torch.equal(found, theirs(image, stream=True, output_type="pt").images[0])
    batch = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(ours.lr_stem(batch).features, theirs.lr_stem(batch).features)


def test_the_codec_alone_decodes(exact: Path) -> None:
    """For programs that run the networks without torch."""
    import openvino

    pipeline = load(exact)
    condition = pipeline.lr_stem(noise_image(8, 12)[None])
    latent = torch.randn(1, 192, 4, 6)
    file, exactly = exact / "codec/openvino_model.xml", {"INFERENCE_PRECISION_HINT": "f32"}
    decode = openvino.Core().compile_model(file, "CPU", exactly)
    given = {"latent": latent, "prediction": condition.prediction, "deviation": condition.deviation}
    found = decode({name: value.numpy() for name, value in given.items()})["image"]
    assert torch.allclose(torch.tensor(found), pipeline.codec.decode(latent, condition), atol=1e-4)


def test_the_command_upscales_and_info_names_the_backend(converted: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.open(PHOTO).resize((32, 20)).save(photo)
    for name in ("a.png", "b.png"):
        result = linearsr("upscale", photo, "--model", converted, "-o", tmp_path / name)
        assert result.exit_code == 0, result.stderr
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (
        json.loads(linearsr("info", converted, "--json").stdout)["model"]["settings"]["backend"] == "openvino"
    )


@pytest.mark.parametrize(("enough", "ranges"), [(45, 2), (1000, 0)])
def test_photos_add_8_bits_where_these_are_close(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: float, ranges: int
) -> None:
    photos, folder = tmp_path / "photos", tmp_path / "model"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(PHOTO, photos / name)
    monkeypatch.setattr("linearsr.cli.convert._LEAST_AGREEMENT", enough)
    result = linearsr("convert", tiny_model, "--to", "openvino", "--photos", photos, "-o", folder, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["ranges"] == ranges
    assert report["psnr_db"]["least"] > 45
    rounded = "FakeQuantize" in (folder / "lr_stem/openvino_model.xml").read_text()
    assert rounded == (ranges > 0)


def test_8_bits_are_close_in_all_blocks(tmp_path: Path) -> None:
    """Of the stem and of the detail head, with the summary of the whole image between convolutions."""
    pipeline = build()
    torch.manual_seed(1)
    pipeline.lr_stem = PredictiveStem(
        PredictiveStemConfig(channels=8, num_blocks=2, summary_channels=4)
    ).eval()
    for layer in (pipeline.lr_stem.conv_out, pipeline.lr_stem.summary.to_modulation):
        torch.nn.init.normal_(layer.weight, std=0.1)
    source, folder = tmp_path / "source", tmp_path / "folder"
    pipeline.save_pretrained(source)
    image = read_rgb(PHOTO)[:24, :32]
    with find_ranges(pipeline.lr_stem) as ranges:
        expected = pipeline(image, output_type="pt").images[0]
    assert len(ranges) == 4
    export(source, folder, pipeline, {f"lr_stem.{name}": value for name, value in ranges.items()})
    found = load(folder)(image, output_type="pt").images[0]
    assert 45 < psnr(found, expected) < 90


def test_nothing_is_reported_over_the_network() -> None:
    code = (
        "from linearsr.backends.openvino import load_openvino; load_openvino(); import sys; "
        "assert not any('openvino_telemetry.' in name for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "device", "expected"),
    [
        ("converted", "openvino:GPU", "OpenVINO finds no GPU here: choose from CPU"),
        ("tiny_model", "openvino", "not for OpenVINO: linearsr convert"),
    ],
)
def test_a_device_that_is_not_there(
    model: str, device: str, expected: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    result = linearsr("upscale", PHOTO, "--model", folder, "--device", device)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_server_and_an_evaluation_take_its_devices(converted: Path, tmp_path: Path) -> None:
    assert worker.load(str(converted), "openvino:CPU", "auto").arithmetic.startswith("openvino:CPU, ")
    shutil.copy(PHOTO, tmp_path)
    arguments = ("--data", tmp_path, "--model", converted, "--metrics", "psnr_y")
    result = linearsr("eval", *arguments, "--device", "openvino:CPU")
    assert result.exit_code == 0, result.stderr


def test_a_network_that_is_missing_is_named(converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(converted, folder)
    (folder / "transformer/expert_2/openvino_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"expert_2.openvino_model.bin: .* convert it again"):
        load(folder)
    (folder / "transformer/expert_2/openvino_model.bin").write_bytes(b"")
    (folder / "lr_stem/openvino_model.xml").write_text("<net")
    with pytest.raises(CheckpointError, match=r"lr_stem.openvino_model.xml: cannot run on CPU \("):
        load(folder)(noise_image(8, 8))


def test_without_openvino_one_line_says_what_to_install(
    tiny_model: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for arguments in (
        ["upscale", PHOTO, "--model", converted],
        ["convert", tiny_model, "--to", "openvino", "-o", tmp_path / "m"],
    ):
        result = linearsr(*arguments)
        assert result.exit_code == 2
        assert "pip install 'linearsr[openvino]'" in result.stderr
    assert not (tmp_path / "m").exists()


def test_what_is_for_openvino_already_is_not_converted(converted: Path, tmp_path: Path) -> None:
    result = linearsr("convert", converted, "--to", "openvino", "-o", tmp_path / "m")
    assert result.exit_code == 2
    assert "for openvino already" in result.stderr


def test_a_model_with_guidance_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = load(tiny_model)
    pipeline.guidance = object()  # type: ignore[assignment]
    with pytest.raises(CheckpointError, match="a model with guidance"):
        export(tiny_model, tmp_path / "m", pipeline)
