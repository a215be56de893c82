"""NIQE against figures of BasicSR, and against a plain float64 version with loops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from scipy.ndimage import correlate
from scipy.special import gamma

from linearsr.evaluation import niqe as module
from linearsr.evaluation.niqe import niqe
from linearsr.images.colour import rgb_to_y

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"

# `calculate_niqe(image, crop_border=0)` of BasicSR 1.4.2, which agrees with the authors' MATLAB code to 1e-5 on its
# own test picture. Run once on the same arrays with NumPy 2 and SciPy 1.17 (one import follows SciPy's new name).
GOLDEN_PHOTOS = {
    "train/bridge.jpg": 5.55069,
    "train/dead-leaves.jpg": 3.28087,
    "train/metal.jpg": 15.14061,
    "train/tree.jpg": 3.82952,
    "val/car.jpg": 4.85607,
    "val/forest.jpg": 3.87711,
}
GOLDEN_VARIANTS = {
    "mosaic": 1.50935,
    "bicubic": 7.08579,
    "black bars": 7.68062,
    "white sky": 7.15306,
    "odd size": 3.72598,
}


def photo(name):
    return np.asarray(Image.open(PHOTOS / name).convert("RGB"))


def mosaic():
    """All 16 training photos in one picture of 896x896: 81 blocks, where one photo alone has four."""
    photos = [photo(f"train/{path.name}") for path in sorted((PHOTOS / "train").glob("*.jpg"))]
    return np.vstack([np.hstack(photos[i : i + 4]) for i in range(0, 16, 4)])


def variant(name):
    image = mosaic()
    if name == "bicubic":
        small = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        return np.asarray(small.resize((896, 896), Image.Resampling.BICUBIC))
    if name == "black bars":
        image[:130] = image[-130:] = 0
    if name == "white sky":
        image[:400, 200:] = 255
    if name == "odd size":
        image = image[:193, :701]
    return image


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", GOLDEN_PHOTOS)
def test_agrees_with_basicsr_on_photos(name):
    assert niqe(tensor(photo(name))) == pytest.approx(GOLDEN_PHOTOS[name], abs=1e-3)


@pytest.mark.parametrize("name", GOLDEN_VARIANTS)
def test_agrees_with_basicsr_on_larger_pictures(name):
    assert niqe(tensor(variant(name))) == pytest.approx(GOLDEN_VARIANTS[name], abs=1e-3)


def plain_niqe(luma):
    """(H, W) whole numbers, whose sides are multiples of 96 -> score, straight from the paper, block by block."""
    offsets = np.arange(-3, 4)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    features = []
    for image, side in ((luma, 96), (halving(luma.shape[0]) @ luma @ halving(luma.shape[1]).T, 48)):
        mean = correlate(image, window, mode="nearest")
        variance = correlate(image**2, window, mode="nearest") - mean**2
        normal = (image - mean) / (np.sqrt(np.abs(variance)) + 1)
        rows, columns = (range(0, length, side) for length in image.shape)
        features.append([plain_features(normal[i : i + side, j : j + side]) for i in rows for j in columns])
    features = np.hstack(features)
    model = load_file(Path(module.__file__).with_name("niqe_pristine.safetensors"))
    difference = features.mean(axis=0) - model["mean"]
    covariance = (np.cov(features.T) + model["covariance"]) / 2
    return np.sqrt(difference @ np.linalg.pinv(covariance) @ difference)


def halving(length):
    """The matrix of a bicubic reduction to one half: Keys' kernel, twice as wide, on a mirrored signal."""
    matrix = np.zeros((length // 2, length))
    for row in range(length // 2):
        for tap in range(2 * row - 3, 2 * row + 5):
            x = abs(tap - (2 * row + 0.5)) / 2
            weight = (1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) / 2
            matrix[row, min(tap, 2 * length - 1 - tap) if tap >= 0 else -1 - tap] += weight
    return matrix


def plain_features(block):
    shape, left, right = plain_fit(block)
    numbers = [shape, (left + right) / 2]
    for down, along in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = plain_fit(block * np.roll(np.roll(block, down, axis=0), along, axis=1))
        numbers += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return numbers


def plain_fit(values):
    left = np.sqrt(np.mean(values[values < 0] ** 2))
    right = np.sqrt(np.mean(values[values > 0] ** 2))
    skew = left / right
    target = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    target *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes = np.linspace(0.2, 10, 9801)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    shape = shapes[np.argmin(np.abs(ratios - target))]
    return shape, *(np.array([left, right]) * np.sqrt(gamma(1 / shape) / gamma(3 / shape)))


@pytest.mark.parametrize(("height", "width", "amount"), [(192, 192, 0.1), (288, 384, 0.02), (480, 192, 0.3)])
def test_agrees_with_a_plain_version(height, width, amount):
    noise = np.random.default_rng(height).normal(0, amount, (height, width, 3))
    picture = mosaic()[:height, :width] / 255
    image = torch.from_numpy(np.clip(0.25 + 0.5 * picture + noise, 0, 1)).permute(2, 0, 1)[None]
    luma = (rgb_to_y(image)[0, 0].numpy() * 255).round()
    assert niqe(image) == pytest.approx(plain_niqe(luma), abs=1e-3)


def test_a_batch_gives_the_mean():
    both = torch.cat([tensor(photo("train/bridge.jpg")), tensor(photo("val/forest.jpg"))])
    assert niqe(both) == pytest.approx(np.mean([niqe(both[:1]), niqe(both[1:])]))


@pytest.mark.parametrize("size", [(191, 300), (300, 191), (8, 8)])
def test_a_small_image_is_refused(size):
    with pytest.raises(ValueError, match="192x192 pixels or more, not"):
        niqe(torch.rand(1, 3, *size))


def test_a_flat_image_is_refused():
    with pytest.raises(ValueError, match="flat"):
        niqe(torch.full((1, 3, 200, 200), 0.3))
