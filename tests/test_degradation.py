"""The degradation against independent implementations and its own promises."""

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr.images import degradation_rounds, kernels
from linearsr.images.degradation import PRESETS, Degradation, Order, degrade, degrade_batch
from linearsr.images.jpeg import jpeg


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.random((64, 96, 3)), (3, 3, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def test_gaussian_is_scipys_gaussian() -> None:
    delta = np.zeros((21, 21))
    delta[10, 10] = 1
    expected = scipy.ndimage.gaussian_filter(delta, 2.0, truncate=10)
    assert kernels.gaussian(21, 2.0, 2.0) == pytest.approx(expected, abs=2e-6)


def test_anisotropic_gaussian_has_the_covariance_it_was_given() -> None:
    kernel = kernels.gaussian(41, 3.0, 1.0, rotation=np.pi / 6).astype(np.float64)
    axis = np.arange(41) - 20
    x, y = np.meshgrid(axis, axis)
    rotation = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
    expected = rotation @ np.diag([9.0, 1.0]) @ rotation.T
    measured = [[np.sum(kernel * a * b) for b in (x, y)] for a in (x, y)]
    assert np.array(measured) == pytest.approx(expected, rel=0.02)


def test_sinc_follows_its_formula() -> None:
    kernel = kernels.sinc(13, 2.0)
    ratio = kernel[6, 9] / kernel[6, 6]
    assert ratio == pytest.approx(scipy.special.j1(6.0) * 2 / 6.0, rel=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(range(7, 22, 2)))
@settings(max_examples=60, deadline=None)
def test_every_kernel_is_normalised(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    blur = kernels.random_blur(rng, size, (0.2, 3.0), Order().kernel_probs, (0.5, 4.0), (1.0, 2.0))
    for kernel in (blur, kernels.random_sinc(rng, size)):
        assert kernel.shape == (size, size)
        assert kernel.dtype == np.float32
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (blur >= 0).all()


@given(
    st.sampled_from(sorted(PRESETS)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([2, 4]),
)
@settings(max_examples=60, deadline=None)
def test_any_size_gives_the_lr_size_on_the_8_bit_grid(
    preset: str, seed: int, height: int, width: int, scale: int
) -> None:
    hr = np.random.default_rng(1).random((height * scale, width * scale, 3), dtype=np.float32)
    lr = degrade(hr, PRESETS[preset], np.random.default_rng(seed), scale)
    assert lr.shape == (height, width, 3)
    assert lr.dtype == np.float32
    assert lr * 255 == pytest.approx(np.round(lr * 255), abs=1e-4)
    assert 0 <= lr.min() <= lr.max() <= 1


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_seed_decides(photo: np.ndarray, preset: str) -> None:
    first, again, other = (degrade(photo, PRESETS[preset], np.random.default_rng(s)) for s in (3, 3, 4))
    assert (first == again).all()
    assert (first == other).all() == (preset == "bicubic")


def test_a_clean_resize_is_one_of_pillows(photo: np.ndarray) -> None:
    as_bytes = Image.fromarray((photo * 255).round().astype(np.uint8))
    filters = ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")
    each = [np.float32(as_bytes.resize((24, 16), Image.Resampling[name])) / 255 for name in filters]
    assert (degrade(photo, PRESETS["bicubic"], np.random.default_rng(0)) == each[2]).all()
    results = [degrade(photo, PRESETS["resized"], np.random.default_rng(s)) for s in range(100)]
    which = [[(one == result).all() for one in each].index(True) for result in results]
    assert min(which.count(i) for i in range(4)) > 10


def test_noise_has_the_strength_that_was_asked_for() -> None:
    grey = np.full((256, 256, 3), 0.5, dtype=np.float32)
    order = Order(
        blur_prob=0,
        resize_probs=(0, 0, 1),
        gaussian_noise_prob=1,
        gray_noise_prob=0,
        noise_range=(20, 20),
        jpeg_range=(100, 100),
    )
    noisy = degrade(grey, Degradation(orders=(order,)), np.random.default_rng(0), scale=1)
    luma = noisy @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    assert luma.std() * 255 == pytest.approx(20 * np.hypot(0.299, np.hypot(0.587, 0.114)), rel=0.05)


def test_a_heavier_preset_leaves_less(photo: np.ndarray) -> None:
    clean = degrade(photo, PRESETS["bicubic"], np.random.default_rng(0))

    def damage(preset: str) -> float:
        made = [degrade(photo, PRESETS[preset], np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([np.mean((lr - clean) ** 2) for lr in made]))

    mild = damage("mild")
    assert 0 < mild < damage("seesr") < damage("realesrgan")
    assert mild < min(damage("old-phone"), damage("scan"))
    assert damage("extreme") > 2 * mild


def test_soft_takes_detail_and_adds_hardly_any_noise(photo: np.ndarray) -> None:
    def detail(preset: str, hr: np.ndarray) -> float:
        made = [degrade(hr, PRESETS[preset], np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([np.abs(np.diff(lr, axis=0)).mean() for lr in made]))

    assert detail("soft", photo) < 0.8 * detail("mild", photo) < detail("bicubic", photo)
    assert detail("soft", np.full_like(photo, 0.5)) < 2.5 / 255


def test_an_odd_size_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match="10x9 is not a multiple of 4"):
        degrade(np.zeros((9, 10, 3), np.float32), PRESETS["mild"], np.random.default_rng(0))


def pillows_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(file), dtype=np.float64)


def batch_of(photo: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1).expand(count, -1, -1, -1).contiguous()


def generators(numbers: range) -> list[np.random.Generator]:
    return [np.random.default_rng([9, i]) for i in numbers]


@pytest.mark.parametrize("size", [(64, 96), (33, 49), (9, 5)])
def test_jpeg_on_tensors_is_pillows(photo: np.ndarray, size: tuple[int, int]) -> None:
    """Grain on top, so that no coefficient is zero by nature."""
    height, width = size
    grain = np.random.default_rng(0).normal(0, 0.03, (height, width, 3))
    pixels = ((photo[:height, :width] + grain).clip(0, 1) * 255).round().astype(np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    for quality in (10, 30, 49, 50, 75, 95, 100):
        image = (jpeg(tensor, quality)[0] * 255).permute(1, 2, 0).numpy()
        expected = pillows_jpeg(pixels, quality)
        error = np.mean((image - expected) ** 2)
        assert 10 * np.log10(255**2 / max(error, 1e-9)) > 48, quality
        damage, pillows_damage = (np.std(result - pixels) for result in (image, expected))
        assert damage == pytest.approx(pillows_damage, rel=0.02), quality


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_single_image_is_a_batch_of_one(photo: np.ndarray, preset: str) -> None:
    single = np.stack([degrade(photo, PRESETS[preset], rng) for rng in generators(range(6))])
    batch = degrade_batch(batch_of(photo, 6), PRESETS[preset], generators(range(6)))
    assert np.array_equal(batch.permute(0, 2, 3, 1).numpy(), single)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"bicubic", "resized"}))
def test_a_device_degrades_as_the_cpu_does(
    photo: np.ndarray, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other random numbers, the same distribution: mean and spread of the damage, and the sharpness that is left."""
    count = 150
    clean = degrade(photo, PRESETS["bicubic"], np.random.default_rng(0))
    single = np.stack([degrade(photo, PRESETS[preset], rng) for rng in generators(range(count))])
    # what other devices do, on the CPU: noise that torch draws, and JPEG on tensors
    monkeypatch.setattr(degradation_rounds, "_draws_itself", lambda image: True)
    batch = degrade_batch(batch_of(photo, count), PRESETS[preset], generators(range(count)))
    batched = batch.permute(0, 2, 3, 1).numpy()
    assert not np.array_equal(batched, single)
    assert batched * 255 == pytest.approx(np.round(batched * 255), abs=1e-4)
    one, other = (-10 * np.log10(np.mean((lr - clean) ** 2, axis=(1, 2, 3))) for lr in (single, batched))
    standard_error = np.hypot(one.std(), other.std()) / np.sqrt(count)
    assert one.mean() == pytest.approx(other.mean(), abs=3.5 * standard_error)
    assert one.std() == pytest.approx(other.std(), rel=0.25)
    sharpness = [np.abs(np.diff(lr, axis=1)).mean() for lr in (single, batched)]
    assert sharpness[0] == pytest.approx(sharpness[1], rel=0.15)


def test_a_batch_of_the_smallest_images(photo: np.ndarray) -> None:
    lr = degrade_batch(batch_of(photo[:4, :8], 30), PRESETS["realesrgan"], generators(range(30)))
    assert lr.shape == (30, 3, 1, 2)
    assert torch.isfinite(lr).all()


@pytest.mark.parametrize("preset", ["bicubic", "mild", "seesr", "realesrgan"])
def test_older_presets_are_what_they_were(preset: str) -> None:
    """Against pictures kept from before the effects came: a draw more or less would change them altogether.

    Another processor may round a sum differently, so a few pixels may differ by a little.
    """
    golden = np.load(Path(__file__).parent / "data" / "degraded.npz")
    hr = golden["hr"].astype(np.float32) / 255
    single = np.stack([degrade(hr, PRESETS[preset], np.random.default_rng(seed)) for seed in range(6)])
    difference = np.abs(single * 255 - golden[preset].astype(np.float32))
    assert difference.mean() < 0.05
