"""A model without experts, of a trunk and a mean alone: its folder, commands, strips and service."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import document, done, linearsr, refused
from linearsr import LinearSRPipeline
from linearsr.evaluation.benchmark import count_parts
from linearsr.models.codec import ResidualCodec
from linearsr.serving.worker import card
from linearsr.training.runs import assemble
from strips import in_strips
from test_rrdb import with_trunk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written as a recipe writes its model."""
    parts = tmp_path_factory.mktemp("parts")
    whole = with_trunk()
    whole.lr_stem.save_pretrained(parts / "lr_stem")
    assert whole.trunk is not None
    whole.trunk.save_pretrained(parts / "trunk")
    assert isinstance(whole.codec, ResidualCodec)
    folder = tmp_path_factory.mktemp("model")
    assemble(parts / "lr_stem", [], (), whole.codec, whole.config, trunk=parts / "trunk").save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def pipe(folder: Path) -> LinearSRPipeline:
    return LinearSRPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).random((21, 14, 3), dtype=np.float32)


@pytest.mark.parametrize("fidelity", [0.0, 0.3, 1.0])
def test_it_draws_what_a_model_with_experts_draws_without_a_step(
    pipe: LinearSRPipeline, photo: np.ndarray, fidelity: float
) -> None:
    result = pipe(photo, fidelity=fidelity, output_type="np").images[0]
    expected = with_trunk()(photo, fidelity=fidelity, output_type="np").images[0]
    np.testing.assert_allclose(result, expected, atol=1e-6)
    np.testing.assert_allclose(in_strips(pipe, photo, strip_rows=5, fidelity=fidelity), result, atol=2e-5)


def test_it_is_saved_and_read_again(pipe: LinearSRPipeline, folder: Path, tmp_path: Path) -> None:
    assert not (folder / "transformer").exists()
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert "transformer" not in index
    assert index["trunk"] == ["linearsr", "RRDBNet"]
    assert LinearSRPipeline.from_pretrained(tmp_path, device="cpu").transformer is None


def test_commands(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (10, 100, 200)).save(tmp_path / "a.png")
    assert document(linearsr("info", folder, "--json"))["model"]["experts"] == []
    done(linearsr("info", folder))
    done(linearsr("upscale", tmp_path / "a.png", "--model", folder))
    assert Image.open(tmp_path / "a_x4.png").size == (36, 28)
    stepped = linearsr("upscale", tmp_path / "a.png", "--model", folder, "--steps", 1, "--overwrite")
    assert "has no experts, only a trunk: ask for 0 steps" in refused(stepped, 1)
    (measured,) = document(linearsr("bench", folder, "--sizes", "9x7", "--runs", 1, "--json"))["sizes"]
    assert (measured["tokens"], measured["output"]) == (9 * 7, [36, 28])
    # not which is longer: a network this small takes a few milliseconds, and so does whatever else runs
    assert min(measured["image_seconds"], measured["nfe_seconds"]) > 0
    done(linearsr("bench", folder, "--sizes", 8, "--runs", 1))


def test_a_service_takes_no_steps(pipe: LinearSRPipeline) -> None:
    told = card(pipe)
    assert (told["min_steps"], told["max_steps"], told["steps"]) == (0, 0, 0)


def test_its_parts_are_counted(pipe: LinearSRPipeline) -> None:
    assert [part.part for part in count_parts(pipe, 8, 8)] == ["lr_stem", "codec", "trunk"]


def test_steps_and_parts_that_do_not_fit(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match="steps 2: the model tiny has no experts, only a trunk: ask for 0 steps"
    ):
        pipe(photo, num_inference_steps=2)
    with pytest.raises(ValueError, match="num_inference_steps 0: the model has no trunk"):
        LinearSRPipeline(pipe.lr_stem, None, pipe.codec, pipe.config)
    with pytest.raises(ValueError, match="num_inference_steps 4: there are no experts"):
        LinearSRPipeline(pipe.lr_stem, None, pipe.codec, trunk=pipe.trunk)
