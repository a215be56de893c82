"""Pictures by strips of rows: the same as in one piece, whatever the strips."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_model
from linearsr.flow.sampler import initial_noise
from linearsr.images.picture import Picture
from linearsr.images.resize import resize, resize_rows
from linearsr.models.blocks import as_image
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.pipeline import LinearSRPipeline
from linearsr.streaming.flow import Walk
from linearsr.streaming.rows import LRRows, Work
from strips import in_strips

SLOW = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lively(pipe: LinearSRPipeline) -> LinearSRPipeline:
    """Weights that start at zero get others, so that every part has a say."""
    torch.manual_seed(1)
    for part in (pipe.lr_stem, pipe.transformer):
        for parameter in part.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> LinearSRPipeline:
    pipe = tiny_model.build()
    summarised = replace(pipe.lr_stem.config, num_blocks=3, summary_channels=4)
    pipe.lr_stem = type(pipe.lr_stem)(summarised).eval()
    pipe.config = replace(pipe.config, num_inference_steps=3)
    return lively(pipe)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and some noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 5 + y / 7), np.cos(y / 3), np.sin((x * y) / 90)], axis=-1)
    return np.clip(0.5 + 0.4 * waves + 0.05 * generator.standard_normal(waves.shape), 0, 1).astype(np.float32)


def levels_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.rint(255 * a) - np.rint(255 * b)).max())


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    strip=st.integers(1, 24),
    steps=st.integers(1, 3),
    fidelity=st.sampled_from([0.0, 0.8, 1.0]),
    color_fix=st.sampled_from(["none", "wavelet"]),
    scale=st.sampled_from([4.0, 2.7, 1.0, 6.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@SLOW
def test_strips_give_what_the_whole_gives(
    pipe, height, width, strip, steps, fidelity, color_fix, scale, dtype
):
    image = photo(height, width)
    how = {"fidelity": fidelity, "color_fix": color_fix, "scale": scale, "num_inference_steps": steps}
    pipe.to(dtype)
    try:
        whole = pipe(image, output_type="np", stream=False, **how).images[0]
        assert levels_apart(in_strips(pipe, image, strip_rows=strip, **how), whole) <= 1
    finally:
        pipe.to(torch.float32)


def test_float32_agrees_far_below_a_level(pipe):
    image = photo(61, 46)
    whole = pipe(image, output_type="np", stream=False).images[0]
    assert np.abs(in_strips(pipe, image, strip_rows=7) - whole).max() < 1e-5


def test_a_row_too_long_for_a_band(pipe):
    """Of more than half of `BAND_TOKENS`, so each band is one row, and the first band gives no output."""
    wide = pipe(torch.rand(3, 5, 2100), num_inference_steps=1, seed=0)
    assert wide.images[0].size == (4 * 2100, 4 * 5)


def test_the_models_own_settings_and_a_list_of_pictures(pipe):
    images = [photo(24, 30), photo(9, 17, seed=1)]
    pipe.config = replace(pipe.config, mean="stem")
    try:
        for fidelity in (0.3, 1.0):
            whole = pipe(images, output_type="np", stream=False, fidelity=fidelity).images
            rows = pipe(images, output_type="np", stream=True, fidelity=fidelity).images
            assert max(map(levels_apart, rows, whole)) <= 1
    finally:
        pipe.config = replace(pipe.config, mean="first_step")


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_at_any_scale(pipe, scale):
    tokens = torch.randn(1, 3, pipe.transformer.config.caption_channels)
    how = {"guidance_embeds": tokens, "guidance_scale": scale, "output_type": "np"}
    image = photo(20, 14)
    whole, rows = (pipe(image, stream=stream, **how).images[0] for stream in (False, True))
    assert levels_apart(rows, whole) <= 1


def test_grey_and_alpha_are_kept(pipe):
    picture = Picture(photo(12, 10)[..., :1], np.linspace(0, 1, 120, dtype=np.float32).reshape(12, 10))
    whole, rows = (pipe.upscale(picture, stream=stream) for stream in (False, True))
    assert rows.colour.shape == (48, 40, 1)
    assert levels_apart(rows.colour, whole.colour) <= 1
    np.testing.assert_array_equal(rows.alpha, whole.alpha)


def test_a_network_with_a_detail_head(pipe):
    torch.manual_seed(2)
    config = replace(pipe.transformer.config, detail_blocks=2, detail_channels=8)
    own = pipe.transformer
    experts = [LinearSRTransformer(config).eval() for _ in range(own.partition.num_experts)]
    try:
        pipe.transformer = type(own)(own.partition, experts)
        lively(pipe)
        image = photo(26, 18)
        whole = pipe(image, output_type="np", stream=False).images[0]
        assert np.abs(in_strips(pipe, image, strip_rows=6) - whole).max() < 1e-5
    finally:
        pipe.transformer = own


@pytest.mark.parametrize("buffers", ["memory", "files"])
@given(
    channels=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**40)
)
@SLOW
def test_noise_is_that_of_one_draw(
    pipe, tmp_path_factory, monkeypatch, buffers, channels, height, width, seed
):
    monkeypatch.setattr("linearsr.streaming.flow._NOISE_AT_ONCE", 32)
    work = Work(2, tmp_path_factory.mktemp("noise") if buffers == "files" else None)
    shape = 2, channels, height, width
    lr = LRRows(None, (height, width), 1, pipe.device, batch=2)
    walk = Walk(None, None, lr, work, shape, [], [seed, 7], None, 1.0, 0.0, True, None)
    walk._draw_noise(lambda share: None)
    rows = torch.cat([walk._rows("state", 0, height // 2), walk._rows("state", height // 2, height)], dim=2)
    assert torch.equal(rows, initial_noise(shape, [seed, 7]))


@given(
    old=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    new=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["bicubic", "lanczos"]),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_rows_of_a_resized_image(old, new, mode, data):
    image = torch.randn(1, 2, *old, generator=torch.Generator().manual_seed(0))
    top = data.draw(st.integers(0, new[0] - 1))
    bottom = data.draw(st.integers(top + 1, new[0]))
    rows = resize_rows(lambda first, last: image[:, :, first:last], old, new, top, bottom, mode)
    torch.testing.assert_close(rows, resize(image, new, mode)[:, :, top:bottom], rtol=0, atol=2e-5)


def test_nothing_is_left_of_what_waited(pipe, tmp_path):
    image = photo(12, 12)
    whole = pipe(image, output_type="np", stream=False).images[0]
    assert levels_apart(in_strips(pipe, image, strip_rows=4, work_folder=tmp_path / "work"), whole) <= 1
    with pytest.raises(KeyboardInterrupt):
        in_strips(pipe, image, work_folder=tmp_path / "work", progress=lambda *_: _raise(KeyboardInterrupt()))
    assert not list((tmp_path / "work").iterdir())


def test_too_little_disk_is_said_before_the_work(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match="of disk for its work"):
        in_strips(pipe, photo(12, 12), work_folder=tmp_path / "work")


def test_streaming_is_chosen_where_memory_is_short(pipe, monkeypatch):
    image = photo(16, 12)
    whole = pipe(image, output_type="np").images[0]
    monkeypatch.setattr("linearsr.streaming.memory.available_memory", lambda device: 50_000)
    assert not pipe.fits(16, 12)
    steps: list[dict] = []
    rows = pipe(
        image, output_type="np", callback_on_step_end=lambda p, i, t, state: steps.append(state)
    ).images[0]
    assert levels_apart(rows, whole) <= 1
    assert steps == [{"steps": 3}] * 3


def test_a_larger_result_needs_more_memory(pipe):
    own, larger = (pipe.estimate_memory(100, 90, scale=scale) for scale in (None, 8))
    assert pipe.estimate_memory(100, 90, scale=pipe.scale) == own
    # as float32, and once more while it is cut to [0, 1]
    assert larger - own > 2 * 4 * 3 * 800 * 720


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_running_out_of_memory_falls_back_to_strips(pipe, monkeypatch, error):
    image = photo(16, 12)
    whole = pipe(image, output_type="np").images[0]
    _fail_in_one_piece(monkeypatch, error)
    assert levels_apart(pipe(image, output_type="np").images[0], whole) <= 1


def test_another_error_is_not_taken_for_too_little_memory(pipe, monkeypatch):
    _fail_in_one_piece(monkeypatch, RuntimeError("a mistake"))
    with pytest.raises(RuntimeError, match="a mistake"):
        pipe(photo(16, 12))


def test_a_block_by_rows_equals_the_block():
    torch.manual_seed(0)
    network = LinearSRTransformer(PRESETS["tiny"])
    block = network.transformer_blocks[0]
    height, width, channels = 11, 6, network.config.width
    x, context = torch.randn(1, height * width, channels), torch.randn(1, 4, channels)
    modulation = torch.randn(1, 6, channels)
    with torch.inference_mode():
        expected = as_image(block.in_one(x, context, None, modulation, width), width)
        for split in ([1] * 11, [4, 4, 3], [11]):
            strips = torch.split(as_image(x, width), split, dim=2)
            out = torch.cat(
                list(block.by_rows(lambda strips=strips: strips, context, None, modulation[0])), 2
            )
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def _fail_in_one_piece(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    run = LinearSRPipeline._run

    def fail(self, lr, seeds, options, work, write):
        return _raise(error) if work.strip is None else run(self, lr, seeds, options, work, write)

    monkeypatch.setattr(LinearSRPipeline, "_run", fail)


def _raise(error: BaseException) -> None:
    raise error
