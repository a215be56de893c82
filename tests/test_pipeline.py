"""The pipeline: every kind of input and output, settings, saving, threads and processes."""

import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr import LinearSRPipeline
from linearsr.images.picture import ImageError
from linearsr.runtime.checkpoints import CheckpointError


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


def test_the_colour_fix_brings_the_mean_back(tiny_model: Path, photo: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=torch.float32, device="cpu")
    with torch.no_grad():
        pipe.lr_stem.conv_out.bias.fill_(0.2)
    target = (photo / 255).mean(axis=(0, 1))
    drift = np.abs(pipe(photo, output_type="np").images[0].mean(axis=(0, 1)) - target).max()
    result = pipe(photo, color_fix="wavelet", output_type="np").images[0]
    fixed = np.abs(result.mean(axis=(0, 1)) - target).max()
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
        ({"seed": 1.9}, "a seed must be a whole number, not"),
        ({"seed": "0"}, "a seed must be a whole number, not"),
    ],
)
def test_settings_out_of_range(
    pipe: LinearSRPipeline, photo: np.ndarray, settings: dict[str, object], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
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
        (lambda f: (f / "model_index.json").unlink(), "not a LinearSR model folder"),
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
