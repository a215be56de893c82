"""The pipeline: every kind of input and output, sizes, seeds, fidelity, saving, threads."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_tools import smooth_photo
from linearsr import LinearSRPipeline
from linearsr.flow.partition import PUBLISHED
from linearsr.images.io import ImageError
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> LinearSRPipeline:
    return LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(smooth_photo(0, (12, 10), (6, 5)))


def test_every_kind_of_input_gives_the_same_picture(
    pipe: LinearSRPipeline, photo: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    unit = photo.astype(np.float32) / 255
    tensor = torch.from_numpy(unit).permute(2, 0, 1)
    kinds = [str(path), path, Image.fromarray(photo), photo, unit, tensor, tensor[None]]
    data = path.read_bytes()
    kinds += [data, bytearray(data), io.BytesIO(data), unit.astype(">f4")]
    results = [pipe(kind).images[0] for kind in kinds]
    kinds[-2].seek(0)
    with path.open("rb") as file:
        results += pipe(file).images
    assert all(result.size == (48, 40) for result in results)
    assert all(np.array_equal(np.asarray(result), np.asarray(results[0])) for result in results)
    assert len(pipe(kinds).images) == len(kinds)


def test_output_types_agree(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    pil, array, tensor, latent = (
        pipe(photo, output_type=kind).images[0] for kind in ("pil", "np", "pt", "latent")
    )
    assert array.shape == (40, 48, 3)
    assert array.dtype == np.float32
    assert torch.equal(tensor, torch.from_numpy(array).permute(2, 0, 1))
    assert np.abs(np.asarray(pil) - array * 255).max() <= 0.5 + 1e-3
    assert latent.shape == (192, 5, 6)
    with pytest.raises(ValueError, match="output_type 'jpg'"):
        pipe(photo, output_type="jpg")


@given(st.integers(1, 13), st.integers(1, 13), st.sampled_from([1, 1.5, 2, 3.3, 4, 7, 8]))
@settings(max_examples=25, deadline=None)
def test_any_size_and_scale(pipe: LinearSRPipeline, height: int, width: int, scale: float) -> None:
    image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    result = pipe(image, scale=scale, num_inference_steps=1, output_type="np").images[0]
    assert result.shape == (max(1, round(height * scale)), max(1, round(width * scale)), 3)
    assert np.isfinite(result).all()


def test_an_images_result_does_not_depend_on_its_neighbours(
    pipe: LinearSRPipeline, photo: np.ndarray
) -> None:
    other = np.random.default_rng(1).random((7, 9, 3), dtype=np.float32)
    alone = pipe(photo, seed=5, output_type="np").images[0]
    together = pipe([other, photo, photo], seed=[1, 5, 6], output_type="np").images
    assert np.array_equal(together[1], alone)
    assert not np.array_equal(together[2], alone)
    assert [t.shape[:2] for t in together] == [(28, 36), (40, 48), (40, 48)]


def test_generators_seed_too(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    def run(seed: int) -> np.ndarray:
        return np.asarray(pipe(photo, generator=torch.Generator().manual_seed(seed)).images[0])

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    with pytest.raises(ValueError, match="2 seeds or generators for 1 images"):
        pipe(photo, seed=[1, 2])


def test_fidelity_walks_from_the_sample_to_the_mean(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    sample, middle, mean = (
        pipe(photo, fidelity=f, output_type="latent", num_inference_steps=3).images[0] for f in (0, 0.25, 1)
    )
    torch.testing.assert_close(middle, 0.75 * sample + 0.25 * mean)
    one_step = pipe(photo, fidelity=0, num_inference_steps=1, output_type="latent").images[0]
    torch.testing.assert_close(mean, one_step)


def test_the_mean_takes_one_evaluation(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    steps: list[tuple[int, float]] = []

    def count(_: object, step: int, t: float, state: dict[str, torch.Tensor]) -> None:
        steps.append((step, t))
        assert set(state) == {"latents", "steps"}

    pipe(photo, fidelity=1, callback_on_step_end=count)
    assert len(steps) == 1
    steps.clear()
    pipe(photo, fidelity=0, num_inference_steps=5, callback_on_step_end=count)
    assert [step for step, _ in steps] == [0, 1, 2, 3, 4]
    assert steps[-1][1] == 0


def test_the_mean_may_be_the_stems(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, device="cpu")
    pipe.config = replace(pipe.config, mean="stem")
    steps: list[int] = []
    mean = pipe(
        photo, fidelity=1, output_type="latent", callback_on_step_end=lambda p, i, t, s: steps.append(i)
    )
    assert not mean.images[0].any()
    assert not steps
    sample, middle = (pipe(photo, fidelity=f, output_type="latent").images[0] for f in (0, 0.25))
    torch.testing.assert_close(middle, 0.75 * sample)


def test_stem_and_codec_share_one_grid(pipe: LinearSRPipeline) -> None:
    other = PredictiveStem(PredictiveStemConfig(scale=2, channels=8, num_blocks=1, patch=2))
    with pytest.raises(
        ValueError, match="one feature for 4 HR pixels a side, and the codec one latent for 8"
    ):
        LinearSRPipeline(other, pipe.transformer, pipe.codec)


def test_only_a_residual_codec_has_a_mean_of_the_stem(pipe: LinearSRPipeline) -> None:
    with pytest.raises(ValueError, match="mean"):
        LinearSRPipeline(pipe.lr_stem, pipe.transformer, object(), PipelineConfig(mean="stem"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean 'flow' is not one of first_step, stem"):
        PipelineConfig(mean="flow")  # type: ignore[arg-type]


def test_a_callback_may_replace_the_latents(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    def blank(_: object, step: int, t: float, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"latents": torch.zeros_like(state["latents"])}

    latent = pipe(photo, fidelity=0, callback_on_step_end=blank, output_type="latent").images[0]
    assert (latent == 0).all()


def test_own_noise_levels_are_walked_for_their_number_of_steps(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, device="cpu")
    pipe.config = replace(pipe.config, num_inference_steps=3, sigmas=(1.0, 0.9, 0.2))
    times: list[float] = []
    pipe(photo, fidelity=0, callback_on_step_end=lambda p, i, t, s: times.append(t))
    assert times == [0.9, 0.2, 0.0]
    times.clear()
    pipe(photo, fidelity=0, num_inference_steps=2, callback_on_step_end=lambda p, i, t, s: times.append(t))
    assert times == [0.5, 0.0]


def test_each_step_goes_to_its_expert(
    pipe: LinearSRPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    embed, experts = LinearSRTransformer.embed, list(pipe.transformer.experts)

    def watched(self: LinearSRTransformer, *inputs: torch.Tensor) -> torch.Tensor:
        used.append(experts.index(self))
        return embed(self, *inputs)

    monkeypatch.setattr(LinearSRTransformer, "embed", watched)
    pipe(photo, fidelity=0, num_inference_steps=10)
    assert used == [PUBLISHED.expert(1 - i / 10) for i in range(10)]
    assert len(set(used)) > 2


def test_guidance_tokens_steer_and_scale_one_is_one_pass(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for expert in pipe.transformer.experts:
            for block in expert.transformer_blocks:
                torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.2)
    tokens = torch.randn(1, 3, 16)
    plain = pipe(photo, fidelity=0, output_type="latent").images[0]
    guided, strong = (
        pipe(photo, fidelity=0, guidance_embeds=tokens, guidance_scale=g, output_type="latent").images[0]
        for g in (1, 2)
    )
    assert not torch.allclose(plain, guided)
    assert not torch.allclose(guided, strong)
    with pytest.raises(ValueError, match="guidance_embeds"):
        pipe(photo, guidance_scale=3)
    with pytest.raises(ValueError, match="guidance_embeds have 15 channels, and the model takes 16"):
        pipe(photo, guidance_embeds=tokens[..., :15])


def test_grey_alpha_and_depth_are_kept(pipe: LinearSRPipeline) -> None:
    grey = pipe(Image.new("L", (4, 4), 100)).images[0]
    assert grey.mode == "L"
    clear = Image.new("RGBA", (4, 4), (200, 10, 10, 0))
    clear.putpixel((1, 1), (10, 200, 10, 255))
    result = pipe(clear).images[0]
    assert result.mode == "RGBA"
    assert result.size == (16, 16)
    alpha = np.asarray(result)[..., 3]
    assert alpha[5:7, 5:7].min() > 128 > alpha[12:, 12:].max()


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_colour_fixes_bring_the_mean_back(tiny_model: Path, photo: np.ndarray, fix: str) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32, device="cpu")
    with torch.no_grad():
        pipe.lr_stem.conv_out.bias.fill_(0.2)
    target = (photo / 255).mean(axis=(0, 1))
    drift = np.abs(pipe(photo, output_type="np").images[0].mean(axis=(0, 1)) - target).max()
    fixed = np.abs(pipe(photo, color_fix=fix, output_type="np").images[0].mean(axis=(0, 1)) - target).max()
    assert drift > 0.05
    assert fixed < 0.25 * drift


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 9}, "scale 9 is out of range"),
        ({"scale": 0.5}, "scale 0.5"),
        ({"num_inference_steps": 0}, "0 steps"),
        ({"fidelity": 1.1}, "fidelity 1.1"),
        ({"color_fix": "magic"}, "color fix 'magic'"),
        ({"scale": "2"}, "scale must be a number, not '2'"),
        ({"scale": float("nan")}, "scale nan"),
        ({"num_inference_steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"fidelity": True}, "fidelity must be a number"),
        ({"guidance_scale": float("inf")}, "guidance"),
        ({"seed": 0, "generator": torch.Generator()}, "either a seed or a generator"),
    ],
)
def test_settings_out_of_range(
    pipe: LinearSRPipeline, photo: np.ndarray, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(photo, **settings)


def test_sixteen_bits_bool_and_byte_order(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    deep = photo[..., 0].astype(np.uint16) * 257
    grey = pipe(deep).images[0]
    assert grey.mode == "I;16"
    assert np.array_equal(np.asarray(pipe(deep.astype(">u2")).images[0]), np.asarray(grey))
    with pytest.warns(UserWarning, match="16 bits for grey alone"):
        colour = pipe(photo.astype(np.uint16) * 257).images[0]
    assert colour.mode == "RGB"
    bits = photo[..., 0] > 128
    assert np.array_equal(
        np.asarray(pipe(bits).images[0]), np.asarray(pipe(bits.astype(np.uint8) * 255).images[0])
    )
    with pytest.raises(ValueError, match="not int64"):
        pipe(photo.astype(np.int64))


def test_a_tuple_on_request(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    (images,) = pipe([photo, photo], return_dict=False, output_type="np")
    assert np.array_equal(images[0], pipe(photo, output_type="np").images[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_after_a_fork_there_is_an_error_and_no_waiting(tiny_model: Path, tmp_path: Path, way: str) -> None:
    """A forked process has not the threads that OpenMP believes to have."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing
import sys

import numpy as np
import torch
from linearsr import LinearSRPipeline

photo = np.zeros((64, 64, 3), np.uint8)


def work(pipe):
    try:
        print((pipe or LinearSRPipeline.from_pretrained({str(tiny_model)!r})).__call__(photo).images[0].size)
    except RuntimeError as error:
        print(error)


if __name__ == "__main__":
    torch.set_num_threads(2)
    pipe = LinearSRPipeline.from_pretrained({str(tiny_model)!r})
    pipe(photo)
    for given in [pipe, None] if {way!r} == "fork" else [None]:
        process = multiprocessing.get_context({way!r}).Process(target=work, args=(given,))
        process.start()
        process.join()
"""
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    if way == "spawn":
        assert lines == ["(256, 256)"]
    else:
        assert len(lines) == 2
        assert all("spawn" in line for line in lines)


def test_a_bad_file_is_an_image_error(pipe: LinearSRPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png"):
        pipe(tmp_path / "a.png")
    for data in (b"no image", io.BytesIO(b"no image")):
        with pytest.raises(ImageError, match="is not an image"):
            pipe(data)


@pytest.mark.parametrize("residency", ["all", "active", "lazy"])
def test_saved_and_loaded_is_the_same(
    pipe: LinearSRPipeline, photo: np.ndarray, residency: str, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    again = LinearSRPipeline.from_pretrained(
        tmp_path, torch_dtype=torch.float32, device="cpu", residency=residency
    )
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["linearsr", "SNRExperts"]
    assert again.config == pipe.config
    expected = pipe(photo, fidelity=0, output_type="np").images[0]
    assert np.array_equal(again(photo, fidelity=0, output_type="np").images[0], expected)


def test_threads_do_not_disturb_each_other(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(
        tiny_model, torch_dtype=torch.float32, device="cpu", residency="active"
    )
    images = [np.roll(photo, i, axis=0) for i in range(6)]
    alone = [pipe(image, seed=i, output_type="np").images[0] for i, image in enumerate(images)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda i: pipe(images[i], seed=i, output_type="np").images[0], range(6)))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model_index.json").unlink(), "no LinearSR model folder"),
        (lambda f: (f / "model_index.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "model_index.json").write_text('{"lr_stem": ["x", "Evil"]}'), "Evil"),
        (lambda f: (f / "lr_stem/diffusion_pytorch_model.safetensors").write_bytes(b"x"), "damaged"),
    ],
)
def test_a_damaged_model_folder_is_named(
    pipe: LinearSRPipeline, tmp_path: Path, damage: object, message: str
) -> None:
    pipe.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        LinearSRPipeline.from_pretrained(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, linearsr; print('torch' in sys.modules, linearsr.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False")


def test_an_image_beyond_the_memory_is_refused_with_the_figures(
    pipe: LinearSRPipeline, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linearsr.runtime.devices.physical_memory", lambda device: 200_000)
    with pytest.raises(ValueError, match="12x10 needs about 0 GB of memory"):
        pipe(photo, output_type="latent")


def test_push_to_hub_uploads_the_folder(pipe: LinearSRPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded: dict[str, list[str]] = {}

    class Hub:
        def __init__(self, token: str | None) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            uploaded[repo_id] = []

        def upload_folder(self, repo_id: str, folder_path: str) -> SimpleNamespace:
            root = Path(folder_path)
            uploaded[repo_id] = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert pipe.push_to_hub("me/model") == "https://hub/commit"
    assert {"model_index.json", "lr_stem/config.json"} <= set(uploaded["me/model"])
    assert "transformer/expert_3/diffusion_pytorch_model.safetensors" in uploaded["me/model"]


def test_a_callers_image_is_not_changed(pipe: LinearSRPipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 2), (9, 99, 199)).save(tmp_path / "phone.jpg", exif=exif)
    image = Image.open(tmp_path / "phone.jpg")
    assert [pipe(image).images[0].size for _ in range(2)] == [(8, 16), (8, 16)]


def test_integer_tensors_and_wrong_ranges(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    as_bytes = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    expected = np.asarray(pipe(photo).images[0])
    assert np.array_equal(np.asarray(pipe(as_bytes).images[0]), expected)
    with pytest.raises(ValueError, match="scale them to the range 0 to 1"):
        pipe(photo.astype(np.float32))
    with pytest.raises(ValueError, match=r"\(C, h, w\)"):
        pipe(as_bytes[0])


@pytest.mark.parametrize("image", [None, {"a": 1}, 3])
def test_what_is_no_image_is_named(pipe: LinearSRPipeline, image: object) -> None:
    with pytest.raises(TypeError, match=f"a path, a PIL image, .*not {type(image).__name__}"):
        pipe(image)  # type: ignore[arg-type]


def test_a_seed_is_a_whole_number(pipe: LinearSRPipeline, photo: np.ndarray) -> None:
    for wrong in (1.9, "0"):
        with pytest.raises(TypeError, match="a seed must be a whole number, not"):
            pipe(photo, seed=wrong)  # type: ignore[arg-type]


def test_sigmas_that_make_no_sense_are_refused() -> None:
    for sigmas in ((0.9, 0.5), (1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="must fall strictly from 1"):
            PipelineConfig(sigmas=sigmas)
