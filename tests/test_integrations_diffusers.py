"""The `DiffusionPipeline` over the parts of a model: loading both ways, the same pixels, saving."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="needs linearsr[full]")
from diffusers import DiffusionPipeline

from linearsr import LinearSRPipeline
from linearsr.integrations import diffusers_pipeline
from linearsr.integrations.diffusers_pipeline import LinearSRDiffusionPipeline
from linearsr.model_folder import save_ranges


@pytest.fixture(scope="module")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def expected(tiny_model, photo):
    pipe = LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32, device="cpu")
    return pipe(photo, seed=3, output_type="np").images[0]


@pytest.fixture(scope="module")
def pipe(tiny_model):
    return LinearSRDiffusionPipeline.from_pretrained(tiny_model)


def test_same_pixels(pipe, photo, expected):
    assert isinstance(pipe, DiffusionPipeline)
    np.testing.assert_array_equal(pipe(photo, seed=3, output_type="np").images[0], expected)
    assert pipe([photo, photo], output_type="np").images.shape == (2, 36, 44, 3)
    (images,) = pipe(photo, return_dict=False)
    assert images[0].size == (44, 36)


def test_custom_pipeline(tiny_model, photo, expected, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path))
    source = diffusers_pipeline.__file__
    pipe = DiffusionPipeline.from_pretrained(str(tiny_model), custom_pipeline=source, trust_remote_code=True)
    assert type(pipe).__name__ == "LinearSRDiffusionPipeline"
    np.testing.assert_array_equal(pipe(photo, seed=3, output_type="np").images[0], expected)


def test_components_and_settings(pipe):
    assert set(pipe.components) == {"lr_stem", "transformer", "codec", "guidance", "tagger", "trunk"}
    assert sum(p.numel() for p in pipe.components["transformer"].parameters()) > 0
    assert pipe.config.settings["name"] == pipe.linearsr.config.name == "tiny"


def test_types_and_devices(tiny_model, photo):
    pipe = LinearSRDiffusionPipeline.from_pretrained(tiny_model, torch_dtype=torch.bfloat16)
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}
    assert pipe.to(torch.float32).dtype == torch.float32
    assert pipe.to("cpu").device == torch.device("cpu")


def test_two_pipelines_share_nothing(pipe, tiny_model):
    other = LinearSRDiffusionPipeline.from_pretrained(tiny_model)
    assert other.transformer is not pipe.transformer


def test_callback_and_generator(pipe, photo):
    steps = []

    def on_step(_pipe, step, _time, state):
        steps.append((step, state["latents"].shape[0]))
        return {}

    first = pipe(
        photo, generator=torch.Generator().manual_seed(1), callback_on_step_end=on_step, num_inference_steps=2
    )
    again = pipe(photo, generator=torch.Generator().manual_seed(1), num_inference_steps=2)
    assert steps == [(0, 1), (1, 1)]
    assert first.images[0].tobytes() == again.images[0].tobytes()


def test_ranges_for_8_bits_survive(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    save_ranges(tmp_path / "model", {"body.0.rdb1": torch.tensor([2.0])})
    LinearSRDiffusionPipeline.from_pretrained(tmp_path / "model").save_pretrained(tmp_path / "saved")
    assert LinearSRPipeline.from_pretrained(tmp_path / "saved").int8_ranges.keys() == {"body.0.rdb1"}


def test_saved_folder_loads_in_both(pipe, photo, expected, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    core = LinearSRPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32, device="cpu")
    np.testing.assert_array_equal(core(photo, seed=3, output_type="np").images[0], expected)
    assert LinearSRDiffusionPipeline.from_pretrained(tmp_path / "model").linearsr.config.name == "tiny"


def test_the_default_model(photo):
    pipe = LinearSRDiffusionPipeline.from_pretrained()
    core = LinearSRPipeline.from_pretrained(torch_dtype=torch.float32, device="cpu")
    ours = pipe(photo, fidelity=0.5, output_type="np").images[0]
    np.testing.assert_array_equal(ours, core(photo, fidelity=0.5, output_type="np").images[0])
