"""What every test needs, and which tests are slow."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Parallel workers share the cores: with all threads in each, they would wait for one another.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

SLOW = """
    allocator bench bulk bulk_ray bulk_s3 cli_bad_input cli_convert cli_knee cli_large cli_tag cli_train cli_upscale
    data data_choice default_model degradation degradation_choice degradation_effects dispatcher distill
    distill_losses distributed eval eval_pyiqa eval_resume full_size_tags guard guided_training integrations_comfyui
    integrations_diffusers kill miniature one_step partition partition_adaptive pipeline pipeline_steps plan
    plan_dry_run recipe rrdb sana_parity serve serve_admission serve_connections serve_endurance
    serve_fuzz serve_large serve_webhooks streaming streaming_codec study study_page study_score tagger taggers
    train_resume train_settings train_validation training web web_default web_everybody web_photos web_saving web_viewer
""".split()  # noqa: SIM905
"""`tests/test_NAME.py`: seconds each, for they train, serve, start processes or compute whole pictures."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of slow files."""
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker("slow")


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each browser that is installed, for tests of the web page."""
    from web_tools import launched

    with launched(request.param) as browser:
        yield browser


@pytest.fixture
def chromium_alone(browser: Any) -> None:
    """For what playwright can ask of Chromium alone: fingers, a phone, a dark page, a clipboard,
    answers to pictures, the focus beyond the last control."""
    if browser.browser_type.name != "chromium":
        pytest.skip("playwright can ask for this in Chromium alone")


@pytest.fixture(scope="session")
def address(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A page over the tiny model."""
    from web_tools import ENDLESS, MAX_PIXELS, web_server

    limits = {"max_pixels": MAX_PIXELS, "max_steps": 2 * ENDLESS}
    with web_server(tmp_path_factory.mktemp("data"), tiny_model, **limits) as address:
        yield address


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page at `address`, which a test module may replace, as another person at each call."""
    from web_tools import visitors

    with visitors(browser, address) as visit:
        yield visit


@pytest.fixture(autouse=True)
def _fresh_accelerator_state() -> Iterator[None]:
    """`accelerate` keeps the mixed precision of the first trainer of a process; each test is a process of its own."""
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small photos to train on, which no test changes."""
    from training_tools import make_photos

    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def stem_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stem with random weights."""
    from training_tools import make_stem

    return make_stem(tmp_path_factory.mktemp("stem") / "lr_stem")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few thousand random weights, which no test changes."""
    from tiny_model import build

    folder = tmp_path_factory.mktemp("tiny_model")
    build().save_pretrained(folder)
    return folder


@pytest.fixture
def upscale(tiny_model: Path) -> Any:
    """`linearsr upscale` with that model; a later `--model` takes its place."""
    from functools import partial

    from commands import linearsr

    return partial(linearsr, "upscale", "--model", tiny_model)


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> Any:
    """The same in memory, in float32; each module has its own."""
    import torch

    from linearsr import LinearSRPipeline

    return LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def photo() -> Any:
    """(10, 12, 3) of 8 bits."""
    import numpy as np

    from image_tools import smooth_photo

    return np.asarray(smooth_photo(0, (12, 10), (6, 5)))


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with a tagger that sees everything in everything."""
    from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
    from tiny_model import build

    folder = tmp_path_factory.mktemp("served_model")
    pipe = build()
    config = OwnTaggerConfig(("sky", "ivy"), (0.0, 0.0), num_blocks=2, image_size=16)
    pipe.tagger = OwnTagger(config).eval()
    pipe.save_pretrained(folder)
    return folder
