"""Metrics of `linearsr eval` against other implementations: scikit-image, piq and BasicSR."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from eval_tools import pair, photo, tensors
from linearsr.evaluation.haarpsi import haarpsi
from linearsr.evaluation.lpips import lpips
from linearsr.evaluation.metrics import ms_ssim, psnr_rgb, psnr_y, ssim_rgb, ssim_y
from linearsr.evaluation.niqe import niqe
from linearsr.evaluation.registry import BUILT_IN, METRICS, choose

# piq 0.8.0 (haarpsi; multi_scale_ssim on studio-range Y) in float64 on the same arrays. piq cannot be imported
# without torchvision; the names that it takes from there were replaced by empty ones.
PIQ = {
    ("bridge", "blurred"): (0.621439, 0.871140),
    ("bridge", "noisy"): (0.812532, 0.980110),
    ("forest", "blurred"): (0.649895, 0.878015),
    ("forest", "noisy"): (0.739263, 0.958265),
    ("mosaic", "blurred"): (0.587208, 0.855257),
    ("mosaic", "noisy"): (0.796577, 0.974635),
    ("odd", "blurred"): (0.582101, 0.855522),
    ("odd", "noisy"): (0.788358, 0.971832),
}


# `calculate_niqe(image, crop_border=0)` of BasicSR 1.4.2, which agrees with the authors' MATLAB code to 1e-5 on its
# own test picture. Run once on the same arrays with NumPy 2 and SciPy 1.17 (one import follows SciPy's new name).
NIQE = {
    "bridge": 5.55069,
    "train/dead-leaves.jpg": 3.28087,
    "train/metal.jpg": 15.14061,
    "train/tree.jpg": 3.82952,
    "val/car.jpg": 4.85607,
    "forest": 3.87711,
    "mosaic": 1.50935,
    "bicubic": 7.08579,
    "black bars": 7.68062,
    "white sky": 7.15306,
    "odd size": 3.72598,
}


@pytest.mark.parametrize("case", PIQ)
def test_agrees_with_piq(case):
    image, reference = tensors(pair(*case))
    values = haarpsi(image, reference), ms_ssim(image, reference)
    assert values == pytest.approx(PIQ[case], abs=1e-3)


@pytest.mark.parametrize("name", NIQE)
def test_agrees_with_basicsr(name):
    # the reference has float32 pixels
    assert niqe(tensors([photo(name)])[0].float()) == pytest.approx(NIQE[name], abs=1e-3)


@pytest.mark.parametrize("case", [("bridge", "blurred"), ("odd", "noisy")])
def test_psnr_and_ssim_are_those_of_scikit_image(case):
    result, reference = pair(*case)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    luma, luma_reference = rgb2ycbcr(result)[..., 0], rgb2ycbcr(reference)[..., 0]
    images = tensors((result, reference))
    near = {"rel": 0, "abs": 1e-6}
    assert psnr_rgb(*images) == pytest.approx(
        peak_signal_noise_ratio(reference, result, data_range=255), **near
    )
    assert ssim_rgb(*images) == pytest.approx(
        structural_similarity(reference, result, channel_axis=2, **window), **near
    )
    assert psnr_y(*images) == pytest.approx(
        peak_signal_noise_ratio(luma_reference, luma, data_range=255), **near
    )
    assert ssim_y(*images) == pytest.approx(structural_similarity(luma_reference, luma, **window), **near)


@pytest.mark.parametrize("metric", [haarpsi, ms_ssim, ssim_y, ssim_rgb])
def test_equal_images_score_one(metric):
    image = tensors([photo("bridge")])[0]
    flat = torch.full((1, 3, 180, 200), 0.3, dtype=torch.float64)
    assert metric(image, image) == pytest.approx(1)
    assert metric(flat, flat) == pytest.approx(1)


def test_a_flat_image_has_no_niqe():
    with pytest.raises(ValueError, match="flat"):
        niqe(torch.full((1, 3, 200, 200), 0.3))


@pytest.mark.parametrize("metric", [haarpsi, lpips, lambda image, _: niqe(image)])
def test_a_batch_gives_the_mean(metric):
    image, reference = (
        torch.cat(both) for both in zip(*(tensors(pair(*c)) for c in list(PIQ)[:4:2]), strict=True)
    )
    singles = [metric(image[i : i + 1], reference[i : i + 1]) for i in range(2)]
    assert metric(image, reference) == pytest.approx(np.mean(singles))


@pytest.mark.parametrize("metric", [m for m in BUILT_IN if m.least_side > 1], ids=lambda m: m.name)
def test_the_least_side_is_the_least(metric):
    def value(side):
        noise = torch.Generator().manual_seed(0)
        images = torch.rand(2, 1, 3, side, 200, generator=noise, dtype=torch.float64)
        return metric.compute(*images[: 1 if metric.kind == "no-reference" else 2])

    assert np.isfinite(value(metric.least_side))
    with pytest.raises(ValueError, match=f"needs {metric.least_side}x{metric.least_side} pixels or more"):
        value(metric.least_side - 1)


@pytest.mark.parametrize("metric", [psnr_y, psnr_rgb])
def test_a_small_image_is_measured(metric):
    assert np.isfinite(metric(torch.rand(1, 3, 9, 7), torch.rand(1, 3, 9, 7)))


def test_what_is_no_number_is_no_perfect_score():
    image = torch.rand(1, 3, 64, 64)
    broken = image.where(image != image[..., 32, 32].max(), torch.nan)
    assert np.isnan(haarpsi(broken, image))
    assert np.isnan(lpips(broken, image))


@pytest.mark.parametrize("metric", [m.compute for m in BUILT_IN if m.kind == "full-reference"])
def test_images_of_two_sizes_are_refused(metric):
    with pytest.raises(ValueError, match="must be alike"):
        metric(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 24))


def test_the_metrics_are_chosen_by_name():
    assert [m.name for m in choose(["niqe", "psnr_y"], True)] == ["psnr_y", "niqe"]
    assert choose(None, True) == list(BUILT_IN)
    assert [m.name for m in choose(None, False)] == ["niqe"]
    assert len(choose(["all"], True)) == len(METRICS)
    assert all(m.kind == "no-reference" for m in choose(["all"], False))
    with pytest.raises(ValueError, match="unknown metric 'psnr': choose from psnr_y"):
        choose(["psnr"], True)
    with pytest.raises(ValueError, match="lpips compares with HR images"):
        choose(["niqe", "lpips"], False)
