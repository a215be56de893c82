"""Blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, sections 3.1 and 3.4), drawn at random.

Every public function returns a float32 array (size, size) that sums to one; `size` is odd.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Kernel = NDArray[np.float32]

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


def _normalised(kernel: NDArray[np.float64]) -> Kernel:
    normalised: Kernel = (kernel / kernel.sum()).astype(np.float32)
    return normalised


def _squared_distance(size: int, sigma_x: float, sigma_y: float, rotation: float) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance of each tap from the centre, for a rotated covariance."""
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    cos, sin = math.cos(rotation), math.sin(rotation)
    return np.asarray(((x * cos + y * sin) / sigma_x) ** 2 + ((y * cos - x * sin) / sigma_y) ** 2)


def gaussian(size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0, beta: float = 1.0) -> Kernel:
    """Return a generalised Gaussian exp(-d^(2 beta) / 2); beta = 1 is the ordinary one. Sigmas in pixels."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def plateau(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> Kernel:
    """Return a plateau 1 / (1 + d^(2 beta)): flat in the middle, like the blur of a lens out of focus."""
    return _normalised(1 / (1 + _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def sinc(size: int, cutoff: float) -> Kernel:
    """Return a low-pass with ringing, w J1(w r) / (2 pi r), where w = `cutoff`, (0, pi] radians per pixel."""
    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    with np.errstate(invalid="ignore"):
        kernel = cutoff * bessel / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalised(kernel)


def random_sinc(rng: np.random.Generator, size: int, lowest_cutoff: float | None = None) -> Kernel:
    """Draw a sinc kernel, its cutoff from [`lowest_cutoff`, pi]; by default pi/3, from 13 taps on pi/5."""
    low = lowest_cutoff if lowest_cutoff is not None else np.pi / (3 if size < 13 else 5)
    return sinc(size, float(rng.uniform(low, np.pi)))


def random_blur(
    rng: np.random.Generator,
    size: int,
    sigma: tuple[float, float],
    kind_probs: Sequence[float],
    beta_gaussian: tuple[float, float],
    beta_plateau: tuple[float, float],
) -> Kernel:
    """Draw one of the six `KINDS` by `kind_probs`, and its sigmas, rotation and shape from their ranges."""
    kind = str(rng.choice(KINDS, p=np.asarray(kind_probs) / np.sum(kind_probs)))
    sigma_x = sigma_y = float(rng.uniform(*sigma))
    rotation = 0.0
    if kind.endswith("aniso"):
        sigma_y = float(rng.uniform(*sigma))
        rotation = float(rng.uniform(-np.pi, np.pi))
    if kind.startswith("generalized"):
        return gaussian(size, sigma_x, sigma_y, rotation, _beta(rng, beta_gaussian))
    if kind.startswith("plateau"):
        return plateau(size, sigma_x, sigma_y, rotation, _beta(rng, beta_plateau))
    return gaussian(size, sigma_x, sigma_y, rotation)


def _beta(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw beta, half of the time below one and half of the time above, however far the range reaches there.

    If the range is on one side of one, so are all draws. The code of Real-ESRGAN instead gives half of its
    plateaus, whose range begins at one, a beta of exactly one.
    """
    low, high = bounds
    if high <= 1 or (low < 1 and rng.random() < 0.5):
        return float(rng.uniform(low, min(high, 1)))
    return float(rng.uniform(max(low, 1), high))
