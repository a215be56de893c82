"""The ComfyUI nodes in a stub of ComfyUI: loaded as it loads custom nodes, with its progress bar and its interrupt."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from linearsr import __version__
from linearsr.model_folder import default_model_folder, read_index
from tiny_model import build

FOLDER = Path(__file__).parents[1] / "integrations/comfyui"


class Interrupted(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    """What the nodes use of ComfyUI."""
    state = SimpleNamespace(interrupted=False, bars=[], models_dir=str(tmp_path / "models"))

    class ProgressBar:
        def __init__(self, total):
            self.total, self.done = total, 0
            state.bars.append(self)

        def update_absolute(self, value, total):
            self.done, self.total = value, total

    def throw():
        if state.interrupted:
            raise Interrupted

    comfy, management, utils = (
        ModuleType(name) for name in ("comfy", "comfy.model_management", "comfy.utils")
    )
    management.get_torch_device = lambda: torch.device("cpu")
    management.throw_exception_if_processing_interrupted = throw
    utils.ProgressBar = ProgressBar
    comfy.model_management, comfy.utils = management, utils
    paths = ModuleType("folder_paths")
    paths.models_dir = state.models_dir
    for module in (comfy, management, utils, paths):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return state


@pytest.fixture
def nodes(comfy, monkeypatch):
    """The mappings, loaded by path under a name with the path in it, as ComfyUI does."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    return module.NODE_CLASS_MAPPINGS


def run(node, **given):
    """Call a node as the executor does: by the name of its function, with every input that it declares."""
    declared = node.INPUT_TYPES()
    inputs = {}
    for name, (kind, *options) in (declared["required"] | declared.get("optional", {})).items():
        default = kind[0] if isinstance(kind, list) else (options[0] if options else {}).get("default")
        inputs[name] = given.get(name, default)
    outputs = getattr(node(), node.FUNCTION)(**inputs)
    assert len(outputs) == len(node.RETURN_TYPES)
    return outputs[0]


def test_images(nodes, comfy):
    pipe = build().to(torch.float32)
    images = torch.rand(2, 7, 9, 3)
    result = run(nodes["LinearSRUpscale"], model=pipe, image=images, steps=3, seed=4, fidelity=0.4)
    assert (result.shape, result.dtype) == ((2, 28, 36, 3), torch.float32)
    expected = pipe(
        list(images.movedim(-1, 1)), num_inference_steps=3, seed=4, fidelity=0.4, output_type="np"
    ).images
    np.testing.assert_array_equal(result.numpy(), np.stack(expected))
    (bar,) = comfy.bars
    assert (bar.total, bar.done) == (6, 6)


def test_the_fidelity_offered_is_that_of_the_model_in_the_package(nodes):
    _, options = nodes["LinearSRUpscale"].INPUT_TYPES()["required"]["fidelity"]
    assert options["default"] == read_index(default_model_folder())["fidelity"]


def test_scale_and_alpha(nodes):
    pipe = build()
    assert run(nodes["LinearSRUpscale"], model=pipe, image=torch.rand(1, 8, 8, 4), scale=1.5).shape == (
        1,
        12,
        12,
        4,
    )
    outside = run(nodes["LinearSRUpscale"], model=pipe, image=torch.rand(1, 8, 8, 3) * 3 - 1)
    assert 0 <= outside.min() <= outside.max() <= 1


def test_interrupt(nodes, comfy):
    comfy.interrupted = True
    with pytest.raises(Interrupted):
        run(nodes["LinearSRUpscale"], model=build(), image=torch.rand(1, 8, 8, 3))
    assert comfy.bars[0].done == 0


def test_models(nodes, comfy, tiny_model):
    loader = nodes["LinearSRLoader"]
    assert loader.INPUT_TYPES()["required"]["model"][0] == ["built in"]
    assert run(loader).config.name == "linearsr-default"
    folder = Path(comfy.models_dir, "linearsr")
    folder.mkdir(parents=True)
    (folder / "mine").symlink_to(tiny_model)
    (folder / "no model").mkdir()
    assert loader.INPUT_TYPES()["required"]["model"][0] == ["built in", "mine"]
    assert run(loader, model="mine").config.name == "tiny"


def test_package():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == __version__
    assert project["tool"]["comfy"]["DisplayName"] == "LinearSR"
