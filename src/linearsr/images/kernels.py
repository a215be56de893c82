"""Blur kernels of the Real-ESRGAN degradation (Wang et al. 2021, sections 3.1 and 3.4), drawn at random.

Every function returns a float32 array (size, size) that sums to one; `size` is odd.
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
    """Mahalanobis distance squared of each tap from the centre, for a rotated axis-aligned covariance."""
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    cos, sin = math.cos(rotation), math.sin(rotation)
    return np.asarray(((x * cos + y * sin) / sigma_x) ** 2 + ((y * cos - x * sin) / sigma_y) ** 2)


def gaussian(size: int, sigma_x: float, sigma_y: float, rotation: float = 0.0, beta: float = 1.0) -> Kernel:
    """Generalised Gaussian exp(-d^(2 beta) / 2); beta = 1 is the ordinary Gaussian. Sigmas in pixels."""
    return _normalised(np.exp(-0.5 * _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def plateau(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> Kernel:
    """Plateau-shaped 1 / (1 + d^(2 beta)): flat in the middle, as a lens out of focus."""
    return _normalised(1 / (1 + _squared_distance(size, sigma_x, sigma_y, rotation) ** beta))


def sinc(size: int, cutoff: float) -> Kernel:
    """Circular low-pass with ringing: k(r) = w J1(w r) / (2 pi r), w = `cutoff` in radians per pixel (0, pi]."""
    axis = np.arange(size) - size // 2
    radius = np.hypot(*np.meshgrid(axis, axis))
    bessel = torch.special.bessel_j1(torch.from_numpy(cutoff * radius)).numpy()
    with np.errstate(invalid="ignore"):
        kernel = cutoff * bessel / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return _normalised(kernel)


def random_sinc(rng: np.random.Generator, size: int, lowest_cutoff: float | None = None) -> Kernel:
    """Sinc kernel with a cutoff drawn from [pi/3, pi], or from [pi/5, pi] for kernels of 13 taps and more."""
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
    """One of the six `KINDS`, chosen by `kind_probs`, with sigmas, rotation and shape drawn from the ranges."""
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
    """Half of the draws lie below one and half above, however far the range reaches on either side.

    All of them lie where the range does if that is one side only; the code of Real-ESRGAN gives half of its plateaus,
    whose range begins at one, a beta of exactly one.
    """
    low, high = bounds
    if high <= 1 or (low < 1 and rng.random() < 0.5):
        return float(rng.uniform(low, min(high, 1)))
    return float(rng.uniform(max(low, 1), high))
