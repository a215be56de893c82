"""Luma against scikit-image, colour fixes against direct float64 versions of their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr
from torch.nn import functional as F

from linearsr.images.colour import clamp_keeping_means, rgb_to_y, wavelet_colour_fix

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def random_pair(size, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, 2, 3, *size, generator=generator, dtype=torch.float64)).unbind(0)


def test_luma_agrees_with_scikit_image():
    rgb = np.random.default_rng(0).random((2, 9, 7, 3))
    expected = rgb2ycbcr(rgb)[..., 0] / 255
    got = rgb_to_y(torch.from_numpy(rgb).permute(0, 3, 1, 2))
    assert got.shape == (2, 1, 9, 7)
    # scikit-image keeps rounded coefficients (65.481 ...), hence not exact.
    np.testing.assert_allclose(got[:, 0].numpy(), expected, atol=1e-5)


def decompose(x, levels=4):
    """The published two-part form, with a full 3x3 kernel and a real convolution."""
    kernel = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=x.dtype) / 16
    high = torch.zeros_like(x)
    for level in range(levels):
        # numpy's "symmetric" repeats the edge pixel, and goes to and fro where the image is shorter than the reach
        sides = [(0, 0), (0, 0), *[(2**level,) * 2] * 2]
        padded = torch.from_numpy(np.pad(x.numpy(), sides, mode="symmetric"))
        low = F.conv2d(padded, kernel.expand(3, 1, 3, 3), groups=3, dilation=2**level)
        high, x = high + x - low, low
    return high, x


def enlarged(x, scale):
    return x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 100))
def test_wavelet_agrees_with_the_two_part_form(size, seed):
    image, reference = random_pair(size, seed)
    expected = decompose(image)[0] + decompose(reference)[1]
    torch.testing.assert_close(wavelet_colour_fix(image, reference), expected)


@settings(max_examples=25, deadline=None)
@given(sizes, st.integers(0, 100), st.sampled_from([2, 4]))
def test_wavelet_adds_low_frequencies_of_the_lr_grid_alone(size, seed, scale):
    """What is added is the same for every detail that the image has below the LR grid."""
    smooth, lr = random_pair(size, seed)
    detail = torch.rand(*smooth.shape[:2], *(scale * n for n in size), dtype=smooth.dtype)
    detail -= enlarged(F.avg_pool2d(detail, scale), scale)
    added = wavelet_colour_fix(enlarged(smooth, scale) + detail, lr) - detail - enlarged(smooth, scale)
    low = decompose(lr - smooth)[1]
    torch.testing.assert_close(added, F.interpolate(low, scale_factor=scale, mode="bilinear"))


@pytest.mark.parametrize("kind", ["flat", "dark", "ramp", "noise", "squares"])
def test_wavelet_keeps_the_mean_of_windows_whatever_the_network_drew(kind):
    """Within 1 level in windows of 32 LR pixels on flats, 2 on textures: a rim that is off, a shift, a hue."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    noise = torch.rand(96, 96, generator=torch.Generator().manual_seed(0))
    lr = {
        "flat": torch.full((96, 96), 0.5),
        "dark": torch.full((96, 96), 0.2),
        "ramp": 0.2 + 0.6 * x / 95,
        "noise": 0.3 + 0.4 * noise,
        "squares": 0.3 + 0.4 * ((x // 24 + y // 24) % 2),
    }[kind].expand(1, 3, 96, 96)
    drawn = enlarged(lr, 4) + torch.tensor([0.1, -0.06, 0.03]).view(1, 3, 1, 1)
    drawn[..., :8] += 0.08
    drawn += 0.1 * (drawn - drawn.mean())
    off = F.avg_pool2d(wavelet_colour_fix(drawn, lr), 4) - lr
    windows = F.avg_pool2d(off, 32, stride=8).abs().max() * 255
    assert windows < (1 if kind in ("flat", "dark", "ramp") else 2)


@pytest.mark.parametrize("fix", [wavelet_colour_fix, clamp_keeping_means])
def test_low_frequencies_are_local(fix):
    """16 LR pixels of context are enough, so tiles and the whole image agree."""
    (image, _), (_, lr) = random_pair((80, 480), 2), random_pair((20, 120), 3)
    whole = fix(image, lr)
    tile = fix(image[..., 80:400], lr[..., 20:100])
    torch.testing.assert_close(tile[..., 64:-64], whole[..., 144:336])


def windows(image, lr):
    """Levels by which means over 32x32 LR pixels are off, at the most."""
    off = F.avg_pool2d(image, 4) - lr
    return float(F.avg_pool2d(off, [min(32, side) for side in off.shape[2:]], 1).abs().max() * 255)


@pytest.mark.parametrize("deviation", [40 / 255, 74 / 255])
@pytest.mark.parametrize("size", [(96, 96), (7, 5)])
def test_clamping_keeps_the_means_of_noise_that_the_network_took_for_noise(size, deviation):
    lr = 0.5 + deviation * torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    lr = lr.clamp(0, 1)
    smooth = wavelet_colour_fix(torch.full((1, 3, 4 * size[0], 4 * size[1]), 0.4), lr)
    assert windows(clamp_keeping_means(smooth, lr), lr) < 4


def test_clamping_keeps_the_colour_of_saturated_flats():
    lr = torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 40, 40)
    noise = torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0)) * 4 / 255
    drawn = wavelet_colour_fix(enlarged(lr, 4) + noise, lr)
    assert windows(drawn.clamp(0, 1), lr) > 1.5
    assert windows(clamp_keeping_means(drawn, lr), lr) < 1


def test_clamping_brings_no_noise_back():
    """What a sensor or JPEG leaves is not the picture's; only what 32 pixels and more have in common is."""
    noise = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    clean = torch.full((1, 3, 384, 384), 0.5)
    for deviation, most in ((10, 0.6), (40, 2.4)):
        made = clamp_keeping_means(clean, 0.5 + noise * deviation / 255)
        assert float(made.std()) * 255 < most


def test_clamping_refuses_what_is_not_finite():
    image, lr = random_pair((8, 8), 1)
    for value in (float("nan"), float("inf")):
        image[0, 0, 3, 3] = value
        with pytest.raises(ValueError, match="not finite"):
            clamp_keeping_means(image, lr)


def test_inputs_stay_untouched():
    image, reference = random_pair((8, 8), 5)
    before = image.clone(), reference.clone()
    wavelet_colour_fix(image, reference)
    assert torch.equal(image, before[0])
    assert torch.equal(reference, before[1])


def test_shapes_are_checked():
    image, reference = random_pair((8, 8), 5)
    with pytest.raises(ValueError, match="must be a whole multiple"):
        wavelet_colour_fix(image, reference[..., :4, :])
