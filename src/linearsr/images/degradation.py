"""Real-world degradation: from an HR image to the LR image a camera, an app and a website would have left of it.

The second-order model of Real-ESRGAN (Wang et al. 2021, section 3): blur, resize, noise, JPEG, twice, with sinc
filters for ringing. What happens to a photo before that, in the camera or on paper, are the effects of
`degradation_effects.py`. Every random choice is drawn per image from one generator, so a seed fixes the result.
"""

import math
from collections.abc import Sequence
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
    Size,
    Smear,
    compress,
    from_pillow,
    to_pillow,
)
from linearsr.images.jpeg import jpeg
from linearsr.images.resize import scaled_size

ImageArray = NDArray[np.float32]
"""(H, W, 3), values in [0, 1]."""
ResizeMode = Literal["box", "bilinear", "bicubic", "lanczos"]
"""A filter of Pillow."""


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
_SOFT = replace(
    _MILD,
    kernel_sizes=(9, 19),
    blur_sigma=(0.4, 1.8),
    gaussian_noise_prob=1.0,
    noise_range=(0.2, 2.5),
    jpeg_range=(70, 97),
    jpeg_prob=0.6,
)
"""What a good camera's picture looks like pixel by pixel: blurred, with hardly any noise."""
_PHONE_FILE = replace(_MILD, blur_prob=0.0, noise_range=(0.5, 3.0), jpeg_range=(35, 90))
"""The file of a small memory; noise and blur came before."""

PRESETS: dict[str, Degradation] = {
    "bicubic": Degradation(),
    "resized": Degradation(filters=("box", "bilinear", "bicubic", "lanczos")),
    "mild": Degradation(orders=(_MILD,)),
    "soft": Degradation(effects=(Resample(factor=(0.7, 1.6)),), orders=(_SOFT,)),
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
"""By name: plain bicubic; a clean resize as one program or another does it; one light round on the LR grid; a lens
out of focus or a digital zoom; strong noise that was never compressed; SeeSR's published light ranges; Real-ESRGAN's
own; a night shot by hand that was passed around; an old print and its scan; a phone of the first years, zoomed in."""


def degrade(hr: ImageArray, degradation: Degradation, rng: np.random.Generator, scale: int = 4) -> ImageArray:
    """Degrade one HR image: `degrade_batch` of one.

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
    lr = degrade_batch(torch.from_numpy(hr).permute(2, 0, 1)[None], degradation, [rng], scale)
    return lr[0].permute(1, 2, 0).contiguous().numpy()


@torch.no_grad()
def degrade_batch(
    hr: Tensor, degradation: Degradation, rngs: Sequence[np.random.Generator], scale: int = 4
) -> Tensor:
    """Degrade HR images of one size.

    An image differs in size from its neighbours after the first resize, so they go one by one. On the CPU noise comes
    from the generators and JPEG from Pillow; other devices draw their own noise and compute JPEG on tensors.

    Args:
        hr: (B, 3, H, W) float32 in [0, 1]; H and W multiples of `scale`.
        degradation: what to do to them, e.g. `PRESETS["mild"]`.
        rngs: B generators, one for each image, which does not depend on its neighbours.
        scale: ratio of the HR to the LR size.

    Returns:
        (B, 3, H / scale, W / scale) float32 in [0, 1], on the 8-bit grid, on the device of `hr`.

    Raises:
        ValueError: if H or W is no multiple of `scale`.
    """
    height, width = hr.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"HR size {width}x{height} is no multiple of {scale}: crop the image first")
    lr_size = (height // scale, width // scale)
    # training may run this inside its own autocast, and bfloat16 has fewer levels than an 8-bit image
    with torch.autocast(hr.device.type, enabled=False):
        images = zip(hr.float().chunk(len(rngs)), rngs, strict=True)
        return torch.cat([_degraded(image, degradation, lr_size, rng) for image, rng in images])


def _degraded(image: Tensor, degradation: Degradation, lr_size: Size, rng: np.random.Generator) -> Tensor:
    if not degradation.orders:
        return _clean(image, lr_size, degradation.filters[rng.integers(len(degradation.filters))])
    device = image.device
    for effect in degradation.effects:
        image = effect(image.cpu(), lr_size, rng)
    image = image.to(device)
    for order in degradation.orders[:-1]:
        size = (image.shape[-2], image.shape[-1])
        image = _jpeg(_blur_resize_noise(image, size, order, rng), order, rng)
    last = degradation.orders[-1]
    image = _blur_resize_noise(image, lr_size, last, rng)
    jpeg_is_last = rng.random() < 0.5
    if not jpeg_is_last:
        image = _jpeg(image, last, rng)
    image = _resize(image, lr_size, rng)
    if rng.random() < degradation.final_sinc_prob:
        image = _filter(image, kernels.random_sinc(rng, _odd_size((7, 21), rng), lowest_cutoff=np.pi / 3))
    if jpeg_is_last:
        image = _jpeg(image, last, rng)
    return (image.clamp(0, 1) * 255).round() / 255


def _clean(image: Tensor, size: Size, mode: ResizeMode) -> Tensor:
    small = to_pillow(image).resize((size[1], size[0]), Image.Resampling[mode.upper()])
    return from_pillow(small).to(image.device)


def _blur_resize_noise(image: Tensor, size: Size, order: Order, rng: np.random.Generator) -> Tensor:
    """A round but for its JPEG, to `size` times the factor that is drawn."""
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
    # reflection needs more pixels than the padding; a thinner image repeats its border instead
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
    """Shot noise with the photon count of an image that has just as many grey levels as this one.

    Grey noise is that of the mean of the colours; the code of Real-ESRGAN weighs them by their lightness.
    """
    levels = len(torch.unique((image * 255).round().to(torch.uint8)))
    photons = 2.0 ** math.ceil(math.log2(max(levels, 2)))
    if not _draws_itself(image):
        return (torch.from_numpy(rng.poisson((image * photons).numpy()) / photons) - image).float()
    if image.device.type == "mps":  # which cannot draw it
        return _poisson(image.cpu(), rng).to(image.device)
    return torch.poisson(image * photons, generator=_on_device(image, rng)) / photons - image


def _draws_itself(image: Tensor) -> bool:
    """Whether noise and JPEG are made on the image's device."""
    return image.device.type != "cpu"


def _on_device(image: Tensor, rng: np.random.Generator) -> torch.Generator:
    return torch.Generator(image.device).manual_seed(int(rng.integers(2**63)))


def _jpeg(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    if order.jpeg_prob < 1 and rng.random() >= order.jpeg_prob:
        return image
    quality = int(rng.integers(order.jpeg_range[0], order.jpeg_range[1] + 1))
    return jpeg(image, quality) if _draws_itself(image) else compress(image, quality)
