"""Real-world degradation: from an HR image to the LR image a camera, an app and a website would have left of it.

The second-order model of Real-ESRGAN (Wang et al. 2021, section 3): blur, resize, noise, JPEG, twice, with sinc
filters for ringing. What happens to a photo before that, in the camera or on paper, are the effects of
`degradation_effects.py`. Every random choice is drawn per image from one generator, so a seed fixes the result.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from linearsr.images import kernels
from linearsr.images.degradation_effects import (
    Dust,
    Effect,
    Fading,
    Halftone,
    Paper,
    Reposts,
    Resample,
    SensorNoise,
    Shake,
    Sharpen,
    Smear,
    apply_effects,
    compress,
)
from linearsr.images.resize import ResizeMode

ImageArray = NDArray[np.float32]
"""(H, W, 3), values in [0, 1]."""

MODES: tuple[Literal["area", "bilinear", "bicubic"], ...] = ("area", "bilinear", "bicubic")
"""How a resize may interpolate, each as likely as the others."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One round of blur, resize, noise and JPEG. Probabilities in [0, 1]; noise in units of 1/255."""

    blur_prob: float = 1.0
    kernel_sizes: tuple[int, int] = (7, 21)
    kernel_probs: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sinc_prob: float = 0.1
    blur_sigma: tuple[float, float] = (0.2, 3.0)
    beta_gaussian: tuple[float, float] = (0.5, 4.0)
    beta_plateau: tuple[float, float] = (1.0, 2.0)
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Up, down, keep."""
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_noise_prob: float = 0.5
    """Otherwise the noise is Poisson."""
    noise_range: tuple[float, float] = (1.0, 30.0)
    poisson_scale: tuple[float, float] = (0.05, 3.0)
    gray_noise_prob: float = 0.4
    jpeg_range: tuple[int, int] = (30, 95)
    jpeg_prob: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Effects, then rounds, each in order; the last round ends on the LR grid. No rounds: a clean resize alone."""

    effects: tuple[Effect, ...] = ()
    orders: tuple[Order, ...] = ()
    filters: tuple[ResizeMode, ...] = ("bicubic",)
    """Of the clean resize, which does not alias; one of them is drawn."""
    final_sinc_prob: float = 0.0


_FIRST = Order()
_SECOND = Order(
    blur_prob=0.8,
    blur_sigma=(0.2, 1.5),
    resize_probs=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_range=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)
_MILD = Order(
    blur_sigma=(0.2, 1.5),
    sinc_prob=0.0,
    resize_probs=(0.0, 0.0, 1.0),
    noise_range=(1.0, 6.0),
    poisson_scale=(0.05, 0.5),
    jpeg_range=(75, 95),
)
_LAST_SHARE = replace(
    _SECOND,
    blur_prob=0.3,
    kernel_sizes=(7, 13),
    resize_probs=(0.2, 0.4, 0.4),
    resize_range=(0.6, 1.3),
    noise_range=(1.0, 12.0),
    poisson_scale=(0.05, 1.0),
    jpeg_range=(25, 85),
)
"""Of a picture that is in a bad state already: about as large as its LR image, so with small kernels."""
_RAW = replace(_MILD, blur_prob=0.5, noise_range=(5.0, 80.0), poisson_scale=(0.5, 8.0), jpeg_prob=0.0)
"""Much noise in every pixel for itself, which compression would have smoothed, its colours above all."""
_SCANNER = replace(
    _MILD,
    blur_prob=0.9,
    kernel_sizes=(7, 13),
    blur_sigma=(0.8, 3.0),
    noise_range=(1.0, 8.0),
    jpeg_range=(60, 95),
)
"""A lens not quite in focus, little noise, and a JPEG of a good quality: what is worn is the print."""
_PHONE_FILE = replace(_MILD, blur_prob=0.0, noise_range=(0.5, 3.0), jpeg_range=(35, 90))
"""The file of a small memory; noise and blur came before."""

PRESETS: dict[str, Degradation] = {
    "bicubic": Degradation(),
    "resized": Degradation(filters=("box", "bilinear", "bicubic", "lanczos")),
    "mild": Degradation(orders=(_MILD,)),
    "noisy": Degradation(orders=(_RAW,)),
    "seesr": Degradation(
        orders=(
            replace(
                _FIRST,
                resize_range=(0.3, 1.5),
                noise_range=(1.0, 15.0),
                poisson_scale=(0.05, 2.0),
                jpeg_range=(60, 95),
            ),
            replace(
                _SECOND,
                blur_prob=0.5,
                resize_range=(0.6, 1.2),
                noise_range=(1.0, 12.0),
                poisson_scale=(0.05, 1.0),
                jpeg_range=(60, 100),
            ),
        ),
        final_sinc_prob=0.8,
    ),
    "realesrgan": Degradation(orders=(_FIRST, _SECOND), final_sinc_prob=0.8),
    "extreme": Degradation(
        effects=(
            Shake(prob=0.5),
            Resample(factor=(0.6, 1.5)),
            SensorNoise(photons=(30, 600), darker=(1.0, 1.25)),
            Reposts(),
        ),
        orders=(_LAST_SHARE,),
        final_sinc_prob=0.5,
    ),
    "scan": Degradation(effects=(Fading(), Halftone(), Dust(), Paper()), orders=(_SCANNER,)),
    "old-phone": Degradation(
        effects=(
            Resample(factor=(0.5, 1.1)),
            SensorNoise(photons=(150, 3000)),
            Smear(),
            Resample(factor=(1.0, 1.0)),
            Sharpen(),
        ),
        orders=(_PHONE_FILE,),
    ),
}
"""By name: plain bicubic; a clean resize as one program or another does it; one light round on the LR grid; strong
noise that was never compressed; SeeSR's published light ranges; Real-ESRGAN's own; a night shot by hand that was
passed around; an old print and its scan; a phone of the first years, zoomed in."""


def degrade(hr: ImageArray, degradation: Degradation, rng: np.random.Generator, scale: int = 4) -> ImageArray:
    """Degrade one HR image.

    Args:
        hr: (H, W, 3) float32 in [0, 1]; H and W multiples of `scale`.
        degradation: what to do to it, e.g. `PRESETS["mild"]`.
        rng: source of every random draw.
        scale: ratio of the HR to the LR size.

    Returns:
        (H / scale, W / scale, 3) float32 in [0, 1], on the 8-bit grid.

    Raises:
        ValueError: if H or W is no multiple of `scale`.
    """
    height, width = hr.shape[:2]
    if height % scale or width % scale:
        raise ValueError(f"HR size {width}x{height} is no multiple of {scale}: crop the image first")
    lr_size = (height // scale, width // scale)
    if not degradation.orders:
        return _clean(hr, lr_size, draw_filter(degradation, rng))
    image = apply_effects(torch.from_numpy(hr).permute(2, 0, 1)[None], degradation.effects, lr_size, rng)
    for order in degradation.orders[:-1]:
        image = _filter(image, draw_blur(order, rng))
        image = _resize(image, scaled((image.shape[-2], image.shape[-1]), draw_factor(order, rng)), rng)
        image = _jpeg(_add_noise(image, order, rng), order, rng)
    last = degradation.orders[-1]
    image = _filter(image, draw_blur(last, rng))
    image = _resize(image, scaled(lr_size, draw_factor(last, rng)), rng)
    image = _add_noise(image, last, rng)
    if rng.random() < 0.5:
        image = _filter(_resize(image, lr_size, rng), draw_ringing(degradation.final_sinc_prob, rng))
        image = _jpeg(image, last, rng)
    else:
        image = _jpeg(image, last, rng)
        image = _filter(_resize(image, lr_size, rng), draw_ringing(degradation.final_sinc_prob, rng))
    quantised = (image.clamp(0, 1) * 255).round() / 255
    return quantised[0].permute(1, 2, 0).contiguous().numpy()


def _clean(hr: ImageArray, size: tuple[int, int], mode: ResizeMode) -> ImageArray:
    image = Image.fromarray((hr * 255).round().astype(np.uint8))
    small = image.resize((size[1], size[0]), Image.Resampling[mode.upper()])
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _filter(image: Tensor, kernel: kernels.Kernel | None) -> Tensor:
    if kernel is None:
        return image
    pad = kernel.shape[0] // 2
    # reflection needs more pixels than the padding; a thinner image repeats its border instead
    mode = "reflect" if min(image.shape[-2:]) > pad else "replicate"
    weight = torch.from_numpy(kernel).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image, (pad,) * 4, mode=mode), weight, groups=3)


def _odd_size(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0] // 2, bounds[1] // 2 + 1)) * 2 + 1


def draw_filter(degradation: Degradation, rng: np.random.Generator) -> ResizeMode:
    """The filter of a clean resize."""
    filters = degradation.filters
    return filters[rng.integers(len(filters))] if len(filters) > 1 else filters[0]


def draw_blur(order: Order, rng: np.random.Generator) -> kernels.Kernel | None:
    """The blur kernel of a round, if it has one."""
    if rng.random() >= order.blur_prob:
        return None
    size = _odd_size(order.kernel_sizes, rng)
    if rng.random() < order.sinc_prob:
        return kernels.random_sinc(rng, size)
    return kernels.random_blur(
        rng, size, order.blur_sigma, order.kernel_probs, order.beta_gaussian, order.beta_plateau
    )


def draw_ringing(probability: float, rng: np.random.Generator) -> kernels.Kernel | None:
    """The sinc kernel at the very end, if there is one."""
    if rng.random() >= probability:
        return None
    return kernels.random_sinc(rng, _odd_size((7, 21), rng), lowest_cutoff=np.pi / 3)


def draw_factor(order: Order, rng: np.random.Generator) -> float:
    """The resize factor of a round, up, down or one."""
    low, high = order.resize_range
    direction = rng.choice(3, p=order.resize_probs)
    if direction == 0:
        return float(rng.uniform(1, high))
    return float(rng.uniform(low, 1)) if direction == 1 else 1.0


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """`size` times `factor`, at least one pixel."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _resize(image: Tensor, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    mode = MODES[rng.integers(len(MODES))]
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size=size, mode=mode)


def _add_noise(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    array = image.clamp(0, 1).numpy()
    gray = rng.random() < order.gray_noise_prob
    if rng.random() < order.gaussian_noise_prob:
        shape = (1, 1, *array.shape[2:]) if gray else array.shape
        noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(
            rng.uniform(*order.noise_range) / 255
        )
    else:
        light = array.mean(axis=1, keepdims=True) if gray else array
        noise = _poisson(light, rng) * np.float32(rng.uniform(*order.poisson_scale))
    return torch.from_numpy(np.clip(array + noise, 0, 1))


def _poisson(array: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Shot noise with the photon count of an image that has just as many grey levels as this one.

    Grey noise is that of the mean of the colours; the code of Real-ESRGAN weighs them by their lightness.
    """
    levels = len(np.unique((array * 255).round().astype(np.uint8)))
    photons = 2.0 ** math.ceil(math.log2(max(levels, 2)))
    return (rng.poisson(array * photons) / photons - array).astype(np.float32)


def draw_quality(order: Order, rng: np.random.Generator) -> int | None:
    """The quality of a round's JPEG; None where there is none."""
    if order.jpeg_prob < 1 and rng.random() >= order.jpeg_prob:
        return None
    return int(rng.integers(order.jpeg_range[0], order.jpeg_range[1] + 1))


def _jpeg(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    quality = draw_quality(order, rng)
    return image if quality is None else compress(image, quality)
