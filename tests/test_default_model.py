"""The weights in the package: what they are, and that they do what they are for."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from linearsr import LinearSRPipeline
from linearsr.evaluation.lpips import lpips
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.images.convert import picture_from_array
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import default_model_folder
from linearsr.models import int8
from strips import in_strips

PHOTO = Path(__file__).parent / "data/church.png"


@pytest.fixture(scope="module")
def pipe() -> LinearSRPipeline:
    return LinearSRPipeline.from_pretrained(device="cpu")


def test_it_says_in_what_it_computes(pipe: LinearSRPipeline) -> None:
    dtype = "bfloat16" if pipe.dtype == torch.bfloat16 else "float32"
    assert pipe.arithmetic == (f"int8, {dtype}" if int8.faster_than(pipe.dtype) else dtype)
    plain = LinearSRPipeline.from_pretrained(torch_dtype=torch.float32, device="cpu")
    assert plain.arithmetic == "float32"


@pytest.mark.parametrize("fidelity", [0.0, 0.4, 1.0])
def test_strips_give_the_pixels_of_the_whole_in_its_own_type(
    pipe: LinearSRPipeline, hr: np.ndarray, fidelity: float
) -> None:
    photo = hr[::3, ::3][:37, :51].copy()
    whole = pipe(photo, fidelity=fidelity, output_type="np", stream=False).images[0]
    picture = picture_from_array(photo)
    for rows in (4, 16):
        found = in_strips(pipe, picture.colour, fidelity=fidelity, strip_rows=rows)
        # in float32, kernels for other sizes may add up in another order
        rounding = 0.0 if pipe.dtype == torch.bfloat16 else 1e-6
        np.testing.assert_allclose(found, whole, rtol=0, atol=rounding)


@pytest.mark.parametrize(("kind", "most"), [("noise", 4), ("green", 1.5), ("narrow", 2)])
def test_means_of_windows_are_those_of_the_input(pipe: LinearSRPipeline, kind: str, most: float) -> None:
    """Of what networks know least: noise they take for a sensor's, colours that overshoot, a row of pixels."""
    random = np.random.default_rng(0).random((48, 48, 3), dtype=np.float32)
    lr = {"noise": random, "green": np.zeros_like(random) + np.float32([0, 1, 0]), "narrow": random[:1, :7]}
    made = pipe(lr[kind], output_type="pt").images[0]
    off = F.avg_pool2d(made, 4) - torch.from_numpy(lr[kind].copy()).permute(2, 0, 1)
    windows = F.avg_pool2d(off, [min(32, side) for side in off.shape[1:]], stride=1)
    assert windows.abs().max() * 255 < most


def test_float16_after_loading(hr: np.ndarray) -> None:
    pipe = LinearSRPipeline.from_pretrained(device="cpu")
    exact = pipe.to(torch.float32)(hr[:24, :32], fidelity=0.5, output_type="np").images[0]
    half = pipe.to(torch.float16)(hr[:24, :32], fidelity=0.5, output_type="np").images[0]
    assert np.abs(half - exact).max() < 0.2


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    return crop_to_multiple(read_rgb(PHOTO), 4)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).permute(2, 0, 1)[None]


def bicubic(lr: np.ndarray) -> np.ndarray:
    image = Image.fromarray((lr * 255).round().astype(np.uint8))
    return np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC), dtype=np.float32) / 255


def test_it_is_a_trunk_a_stem_and_a_tagger_in_less_than_30_mb(pipe: LinearSRPipeline) -> None:
    assert pipe.transformer is None, "weights that nothing uses"
    assert pipe.trunk is not None
    assert pipe.tagger is not None
    size = sum(path.stat().st_size for path in default_model_folder().rglob("*") if path.is_file())
    assert size < 30e6
    assert not [path for path in default_model_folder().rglob("*") if path.suffix in {".bin", ".pt", ".pth"}]


@pytest.mark.parametrize(("preset", "gain"), [("bicubic", 0.8), ("mild", 0.4)])
def test_it_beats_bicubic(pipe: LinearSRPipeline, hr: np.ndarray, preset: str, gain: float) -> None:
    lr = degrade(hr, PRESETS[preset], file_generator(0, PHOTO.stem), 4)
    base, truth = tensor(bicubic(lr)), tensor(hr)
    mean = tensor(pipe(lr, fidelity=1, output_type="np").images[0])
    usual = tensor(pipe(lr, output_type="np").images[0])
    assert psnr_y(mean, truth) > psnr_y(base, truth) + gain
    assert ssim_y(mean, truth) > ssim_y(base, truth) + 0.01
    assert lpips(usual, truth) < 0.8 * lpips(base, truth)


def test_less_fidelity_is_sharper(pipe: LinearSRPipeline, hr: np.ndarray) -> None:
    lr = degrade(hr, PRESETS["mild"], file_generator(0, PHOTO.stem), 4)

    def roughness(fidelity: float) -> float:
        image = pipe(lr, fidelity=fidelity, output_type="np").images[0].mean(axis=2)
        return float(np.abs(np.diff(image, axis=1)).mean())

    values = [roughness(fidelity) for fidelity in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert values == sorted(values)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.open(PHOTO).resize((40, 30)).save(small)
    for name in ("a.png", "b.png"):
        command = [
            sys.executable,
            "-m",
            "linearsr.cli.app",
            "upscale",
            str(small),
            "-o",
            str(tmp_path / name),
        ]
        subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size == (160, 120)


def test_a_flat_picture_stays_flat_and_keeps_its_colour(pipe: LinearSRPipeline) -> None:
    colour = (40, 120, 200)
    result = np.asarray(pipe(Image.new("RGB", (32, 24), colour)).images[0]).astype(int)
    assert np.abs(result - colour).max() <= 6


def test_time_grows_linearly(pipe: LinearSRPipeline) -> None:
    def seconds(side: int) -> float:
        image = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            pipe(image)
            times.append(time.perf_counter() - start)
        return min(times)

    # four times the pixels; quadratic attention would take up to sixteen times as long
    assert seconds(128) < 8 * seconds(64)
