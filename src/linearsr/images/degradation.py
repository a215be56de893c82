"""Real-world degradation: from an HR image to the LR image that a camera, an app and a website would leave.

First come the effects of a camera (`degradation_effects.py`) or of paper (`degradation_print.py`), then
rounds of blur, resize, noise and JPEG (`degradation_rounds.py`). All random choices for an image are drawn
from one generator, so a seed fixes the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from linearsr.images.degradation_effects import (
    Effect,
    Reposts,
    Resample,
    SensorNoise,
    Shake,
    Sharpen,
    Size,
    Smear,
    from_pillow,
    to_pillow,
)
from linearsr.images.degradation_print import Dust, Fading, Halftone, Paper
from linearsr.images.degradation_rounds import Order, last_round, one_round

ImageArray = NDArray[np.float32]
"""An RGB image (H, W, 3) with values in [0, 1]."""
ResizeMode = Literal["box", "bilinear", "bicubic", "lanczos"]
"""A resampling filter of Pillow."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Effects, then rounds, each in order, down to the LR grid; without rounds, a clean resize alone."""

    effects: tuple[Effect, ...] = ()
    orders: tuple[Order, ...] = ()
    filters: tuple[ResizeMode, ...] = ("bicubic",)
    """Filters for the clean resize, which does not alias; one is drawn per image."""
    final_sinc_prob: float = 0.0
    """Probability that the last round applies a sinc filter, which causes ringing."""


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
"""For a picture in a bad state already: it is about as large as its LR image, so kernels are small."""
_RAW = replace(_MILD, blur_prob=0.5, noise_range=(5.0, 80.0), poisson_scale=(0.5, 8.0), jpeg_prob=0.0)
"""Strong noise, independent in each pixel. JPEG would smooth it, above all its colours, so there is none."""
_SCANNER = replace(
    _MILD,
    blur_prob=0.9,
    kernel_sizes=(7, 13),
    blur_sigma=(0.8, 3.0),
    noise_range=(1.0, 8.0),
    jpeg_range=(60, 95),
)
"""A lens not quite in focus, little noise, and a JPEG of good quality: the damage is on the print itself."""
_SOFT = replace(
    _MILD,
    kernel_sizes=(9, 19),
    blur_sigma=(0.4, 1.8),
    gaussian_noise_prob=1.0,
    noise_range=(0.2, 2.5),
    jpeg_range=(70, 97),
    jpeg_prob=0.6,
)
"""A good camera's picture seen pixel by pixel: blurred, with hardly any noise."""
_PHONE_FILE = replace(_MILD, blur_prob=0.0, noise_range=(0.5, 3.0), jpeg_range=(35, 90))
"""A file saved in little memory; the effects before it make noise and blur."""

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
"""The presets by name, in this order: plain bicubic; a clean resize as various programs do it; one light
round on the LR grid; a lens out of focus or a digital zoom; strong noise that was never compressed; SeeSR's
published light ranges; Real-ESRGAN's own; a handheld night shot that was passed around; the scan of an old
print; an early camera phone, zoomed in."""


def degrade(hr: ImageArray, degradation: Degradation, rng: np.random.Generator, scale: int = 4) -> ImageArray:
    """Degrade one HR image, float32 (H, W, 3), like `degrade_batch`; return (H / scale, W / scale, 3)."""
    lr = degrade_batch(torch.from_numpy(hr).permute(2, 0, 1)[None], degradation, [rng], scale)
    return lr[0].permute(1, 2, 0).contiguous().numpy()


@torch.no_grad()
def degrade_batch(
    hr: Tensor, degradation: Degradation, rngs: Sequence[np.random.Generator], scale: int = 4
) -> Tensor:
    """Degrade HR images of one size.

    The images are processed one by one, because their sizes differ after the first resize. On the CPU, noise
    comes from the generators and JPEG from Pillow; other devices draw their own noise and compute JPEG on
    tensors.

    Args:
        hr: (B, 3, H, W) float32 in [0, 1]; H and W multiples of `scale`.
        degradation: what to apply, e.g. `PRESETS["mild"]`.
        rngs: B generators, one per image, so that no result depends on the other images.
        scale: ratio of the HR to the LR size.

    Returns:
        (B, 3, H / scale, W / scale) float32 in [0, 1], on the 8-bit grid, on the device of `hr`.

    Raises:
        ValueError: H or W is not a multiple of `scale`.
    """
    height, width = hr.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"HR size {width}x{height} is not a multiple of {scale}: crop the image first")
    lr_size = (height // scale, width // scale)
    # training may call this under autocast, but bfloat16 has fewer levels than an 8-bit image
    with torch.autocast(hr.device.type, enabled=False):
        images = zip(hr.float().chunk(len(rngs)), rngs, strict=True)
        return torch.cat([_degraded(image, degradation, lr_size, rng) for image, rng in images])


def _degraded(image: Tensor, degradation: Degradation, lr_size: Size, rng: np.random.Generator) -> Tensor:
    if not degradation.orders:
        mode = degradation.filters[rng.integers(len(degradation.filters))]
        small = to_pillow(image).resize(lr_size[::-1], Image.Resampling[mode.upper()])
        return from_pillow(small).to(image.device)
    device = image.device
    for effect in degradation.effects:
        image = effect(image.cpu(), lr_size, rng)
    image = image.to(device)
    for order in degradation.orders[:-1]:
        image = one_round(image, order, rng)
    image = last_round(image, lr_size, degradation.orders[-1], degradation.final_sinc_prob, rng)
    return (image.clamp(0, 1) * 255).round() / 255
