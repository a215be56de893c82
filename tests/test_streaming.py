"""Pictures by strips of rows: the same as in one piece, whatever the strips, and after a kill."""

import copy
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_model
from linearsr.flow.sampler import initial_noise
from linearsr.images.io import Picture
from linearsr.images.resize import resize, resize_rows
from linearsr.models import int8
from linearsr.models.bands import BlockRows
from linearsr.models.blocks import TransformerBlock
from linearsr.models.presets import PRESETS
from linearsr.models.rows import through
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline
from linearsr.streaming import stream_upscale
from linearsr.streaming.buffers import FileBuffer, MemoryBuffer
from linearsr.streaming.noise import NoiseRows
from linearsr.streaming.source import ArrayReader, ArrayWriter

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


def streamed(pipe: LinearSRPipeline, image: np.ndarray, **how: object) -> np.ndarray:
    scale = float(how.get("scale", pipe.scale))
    writer = ArrayWriter(round(image.shape[0] * scale), round(image.shape[1] * scale))
    reader = ArrayReader(torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1)
    stream_upscale(pipe, reader, writer, **how)
    return writer.array


def levels_apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.rint(255 * a) - np.rint(255 * b)).max())


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    strip=st.integers(1, 24),
    steps=st.integers(1, 3),
    fidelity=st.sampled_from([0.0, 0.8, 1.0]),
    color_fix=st.sampled_from(["none", "wavelet", "adain"]),
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
        assert levels_apart(streamed(pipe, image, strip_rows=strip, **how), whole) <= 1
    finally:
        pipe.to(torch.float32)


def test_float32_agrees_far_below_a_level(pipe):
    image = photo(61, 46)
    whole = pipe(image, output_type="np", stream=False).images[0]
    assert np.abs(streamed(pipe, image, strip_rows=7) - whole).max() < 1e-5


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
        assert np.abs(streamed(pipe, image, strip_rows=6) - whole).max() < 1e-5
    finally:
        pipe.transformer = own


@pytest.mark.parametrize("buffers", ["memory", "files"])
@given(
    channels=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 2**40)
)
@SLOW
def test_noise_is_that_of_one_draw(tmp_path, monkeypatch, buffers, channels, height, width, seed):
    monkeypatch.setattr("linearsr.streaming.noise._PIECE", 32)
    count = channels * height * width
    kind = MemoryBuffer if buffers == "memory" else lambda *a: FileBuffer(tmp_path / "noise.rows", *a)
    noise = NoiseRows(kind(count, (), torch.float32), (channels, height, width))
    noise.draw(seed, lambda share: None)
    expected = initial_noise((1, channels, height, width), seed)
    middle = height // 2
    rows = torch.cat([noise.read(0, middle), noise.read(middle, height)], dim=2)
    assert torch.equal(rows, expected)


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


KILLED = """
import os, signal, sys, torch
import numpy as np
from pathlib import Path
from types import SimpleNamespace
import test_streaming as t
from linearsr.pipeline import LinearSRPipeline
pipe = LinearSRPipeline.from_pretrained(sys.argv[1], device="cpu", torch_dtype=torch.float32)
def progress(label, share):
    if share >= float(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
t.streamed(pipe, t.photo(40, 30), strip_rows=4, work_folder=Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_run_goes_on_where_it_was(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("linearsr.streaming.stem._SECONDS_BETWEEN_NOTES", 0.0)
    pipe.save_pretrained(tmp_path / "model")
    pipe = LinearSRPipeline.from_pretrained(tmp_path / "model", device="cpu", torch_dtype=torch.float32)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + KILLED
    folder = tmp_path / "work"
    for share in ("0.02", "0.9"):
        arguments = [sys.executable, "-c", code, str(tmp_path / "model"), str(folder), share]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert len(json.loads((folder / "state.json").read_text())["finished"]) > 5
    evaluated: list[str] = []
    image = photo(40, 30)
    rows = streamed(
        pipe, image, strip_rows=6, work_folder=folder, progress=lambda label, share: evaluated.append(label)
    )
    assert np.abs(rows - pipe(image, output_type="np", stream=False).images[0]).max() < 1e-5
    assert not folder.exists()


def test_a_run_that_ends_between_writing_and_tidying_writes_again(pipe, tmp_path, monkeypatch):
    image = photo(12, 12)
    with monkeypatch.context() as patch:
        patch.setattr("linearsr.streaming.work.Work.remove", lambda self: _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            streamed(pipe, image, work_folder=tmp_path / "work")
    rows = streamed(pipe, image, work_folder=tmp_path / "work")
    assert levels_apart(rows, pipe(image, output_type="np", stream=False).images[0]) <= 1
    assert not (tmp_path / "work").exists()


def test_the_stem_goes_on_in_the_middle(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("linearsr.streaming.stem._SECONDS_BETWEEN_NOTES", 0.0)
    image = photo(64, 20)
    folder = tmp_path / "work"

    class Stopped(Exception):
        pass

    def stop(label: str, share: float) -> None:
        state = folder / "state.json"
        if label == "stem" and json.loads(state.read_text())["rows"] > 30:
            raise Stopped

    with pytest.raises(Stopped):
        streamed(pipe, image, strip_rows=4, work_folder=folder, progress=stop, fidelity=0.0)
    tops: list[int] = []
    read = ArrayReader.read
    monkeypatch.setattr(
        ArrayReader, "read", lambda self, top, bottom: (tops.append(top), read(self, top, bottom))[1]
    )
    rows = streamed(pipe, image, strip_rows=4, work_folder=folder, fidelity=0.0)
    assert tops[0] > 8
    assert np.abs(rows - pipe(image, output_type="np", stream=False, fidelity=0.0).images[0]).max() < 1e-5


def test_a_folder_with_other_work_is_refused(pipe, tmp_path):
    image = photo(12, 12)
    folder = tmp_path / "work"

    def stop(label: str, share: float) -> None:
        if share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamed(pipe, image, work_folder=folder, progress=stop)
    with pytest.raises(ValueError, match=r"holds the unfinished work of another run \(another seed\)"):
        streamed(pipe, image, work_folder=folder, seed=7)
    with pytest.raises(ValueError, match="another picture"):
        streamed(pipe, image, work_folder=folder, identity="another")
    (folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        streamed(pipe, image, work_folder=folder)


def test_too_little_disk_is_said_before_the_work(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(ValueError, match="of disk for its work"):
        streamed(pipe, photo(12, 12), work_folder=tmp_path / "work")


def test_streaming_is_chosen_where_memory_is_short(pipe, monkeypatch):
    image = photo(16, 12)
    whole = pipe(image, output_type="np").images[0]
    monkeypatch.setattr("linearsr.streaming.memory.available_memory", lambda device: 50_000)
    monkeypatch.setattr(LinearSRPipeline, "_upscale_whole", _no_memory)
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
    monkeypatch.setattr(pipe.lr_stem, "forward", lambda lr: _raise(error))
    assert levels_apart(pipe(image, output_type="np").images[0], whole) <= 1


def test_another_error_is_not_taken_for_too_little_memory(pipe, monkeypatch):
    monkeypatch.setattr(pipe.lr_stem, "forward", lambda lr: _raise(RuntimeError("a mistake")))
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
        expected = TransformerBlock.forward(block, x, context, None, modulation, height, width)[0]
        rows = BlockRows(block, context, None, block.scale_shift_table + modulation[0], width)
        for split in ([1] * 11, [4, 4, 3], [11]):
            strips = torch.split(x[0], [width * n for n in split])
            rows = BlockRows(block, context, None, block.scale_shift_table + modulation[0], width)
            total = rows.summary(strips[0])
            for strip in strips[1:]:
                total = total + rows.summary(strip)
            rows.attend_to(total)
            out = torch.cat(list(through(rows, strips)))
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not int8.supported(), reason="this processor has no fast 8-bit products")
def test_8_bit_blocks_by_strips(pipe):
    stem = copy.deepcopy(pipe.lr_stem)
    image = photo(41, 24)
    own = pipe.lr_stem
    try:
        pipe.lr_stem = stem
        with int8.find_ranges(stem) as ranges:
            pipe(image, stream=False)
        int8.use_int8_(stem, ranges)
        whole = pipe(image, output_type="np", stream=False).images[0]
        assert levels_apart(streamed(pipe, image, strip_rows=6), whole) <= 1
    finally:
        pipe.lr_stem = own


def _no_memory(*_: object) -> None:
    raise AssertionError("not in one piece")


def _raise(error: BaseException) -> None:
    raise error
