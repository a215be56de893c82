"""The rounds of Real-ESRGAN (Wang et al. 2021, section 3): blur, resize, noise, JPEG, sinc filters."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.images import kernels
from linearsr.images.degradation_effects import Size, compress
from linearsr.images.jpeg import jpeg
from linearsr.images.resize import scaled_size


@dataclass(frozen=True, kw_only=True)
class Order:
    """One round of blur, resize, noise and JPEG. Probabilities are in [0, 1], noise in units of 1/255."""

    blur_prob: float = 1.0
    kernel_sizes: tuple[int, int] = (7, 21)
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    beta_gaussian: tuple[float, float] = (0.5, 4.0)
    beta_plateau: tuple[float, float] = (1.0, 2.0)
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of making the image larger, making it smaller, and keeping its size."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    """Probability of Gaussian noise; otherwise the noise is Poisson."""
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[int, int] = (30, 95)
    jpeg_prob: float = 1.0


def one_round(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    """Apply a round to an image (1, 3, H, W) in [0, 1]; the result has a size drawn at random."""
    size = (image.shape[-2], image.shape[-1])
    return _jpeg(_blur_resize_noise(image, size, order, rng), order, rng)


def last_round(
    image: Tensor, lr_size: Size, order: Order, sinc_prob: float, rng: np.random.Generator
) -> Tensor:
    """Apply a round to an image (1, 3, H, W) in [0, 1] and bring it to the LR grid (1, 3, h, w).

    A sinc filter follows with probability `sinc_prob`; JPEG is before the resize to the LR grid, or last.
    """
    image = _blur_resize_noise(image, lr_size, order, rng)
    jpeg_is_last = rng.random() < 0.5
    if not jpeg_is_last:
        image = _jpeg(image, order, rng)
    image = _resize(image, lr_size, rng)
    if rng.random() < sinc_prob:
        image = _filter(image, kernels.random_sinc(rng, _odd_size((7, 21), rng), lowest_cutoff=np.pi / 3))
    return _jpeg(image, order, rng) if jpeg_is_last else image


def _blur_resize_noise(image: Tensor, size: Size, order: Order, rng: np.random.Generator) -> Tensor:
    """Apply a round except for JPEG, with a resize to `size` times a random factor."""
    if rng.random() < order.blur_prob:
        image = _filter(image, _draw_blur(order, rng))
    low, high = order.resize_range
    direction = rng.choice(3, p=order.resize_probs)
    factor = 1.0 if direction == 2 else rng.uniform(1, high) if direction == 0 else rng.uniform(low, 1)
    image = _resize(image, scaled_size(*size, factor), rng)
    return _add_noise(image, order, rng)


def _draw_blur(order: Order, rng: np.random.Generator) -> kernels.Kernel:
    size = _odd_size(order.kernel_sizes, rng)
    if rng.random() < order.sinc_prob:
        return kernels.random_sinc(rng, size)
    return kernels.random_blur(
        rng, size, order.blur_sigma, order.kernel_probs, order.beta_gaussian, order.beta_plateau
    )


def _odd_size(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0] // 2, bounds[1] // 2 + 1)) * 2 + 1


def _filter(image: Tensor, kernel: kernels.Kernel) -> Tensor:
    pad = kernel.shape[0] // 2
    # reflection needs more pixels than the padding, so a thinner image repeats its border instead
    mode = "reflect" if min(image.shape[-2:]) > pad else "replicate"
    weight = torch.from_numpy(kernel).to(image.device).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image, (pad,) * 4, mode=mode), weight, groups=3)


def _resize(image: Tensor, size: Size, rng: np.random.Generator) -> Tensor:
    mode = ("area", "bilinear", "bicubic")[rng.integers(3)]
    return image if tuple(image.shape[-2:]) == size else F.interpolate(image, size=size, mode=mode)


def _add_noise(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    image = image.clamp(0, 1)
    gray = rng.random() < order.gray_noise_prob
    if rng.random() < order.gaussian_noise_prob:
        noise = _normal(image[:, :1] if gray else image, rng)
        strength = rng.uniform(*order.noise_range) / 255
    else:
        noise = _poisson(image.mean(dim=1, keepdim=True) if gray else image, rng)
        strength = rng.uniform(*order.poisson_scale)
    return (image + noise * strength).clamp(0, 1)


def _normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    if not _draws_itself(like):
        return torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))
    return torch.randn(like.shape, generator=_on_device(like, rng), device=like.device)


def _poisson(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Draw shot noise; white has as many photons as the image has grey levels, up to the next power of two.

    Grey noise is that of the mean of the colours; the code of Real-ESRGAN weighs them by luma instead.
    """
    levels = len(torch.unique((image * 255).round().to(torch.uint8)))
    photons = 2.0 ** math.ceil(math.log2(max(levels, 2)))
    if not _draws_itself(image):
        return (torch.from_numpy(rng.poisson((image * photons).numpy()) / photons) - image).float()
    if image.device.type == "mps":  # MPS cannot draw Poisson noise
        return _poisson(image.cpu(), rng).to(image.device)
    return torch.poisson(image * photons, generator=_on_device(image, rng)) / photons - image


def _draws_itself(image: Tensor) -> bool:
    """Return whether noise and JPEG are computed on the image's device."""
    return image.device.type != "cpu"


def _on_device(image: Tensor, rng: np.random.Generator) -> torch.Generator:
    return torch.Generator(image.device).manual_seed(int(rng.integers(2**63)))


def _jpeg(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    if order.jpeg_prob < 1 and rng.random() >= order.jpeg_prob:
        return image
    quality = int(rng.integers(order.jpeg_range[0], order.jpeg_range[1] + 1))
    return jpeg(image, quality) if _draws_itself(image) else compress(image, quality)
