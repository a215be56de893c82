"""Antialiased resampling that matches Pillow's `Image.resize`, in floating point and on any device."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

ResizeMode = Literal["bicubic", "lanczos"]
_SUPPORT = {"bicubic": 2, "lanczos": 3}


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return (height, width) of an image enlarged by `scale`, each at least 1."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(image: Tensor, size: tuple[int, int], mode: ResizeMode = "bicubic") -> Tensor:
    """Resample (B, C, H, W) to (B, C, *size), `size` being (height, width), with the dtype of `image`.

    As in Pillow, a reduction widens the kernel by its factor to avoid aliasing; `bicubic` is Keys' cubic
    (1981) with a = -0.5, `lanczos` has three lobes. Sums are computed in float32 at least. The result is not
    rounded or clamped, so it may overshoot near edges. Raises ValueError for a size below 1, another shape or
    an unknown mode.
    """
    if image.ndim != 4:
        raise ValueError(f"image must have the shape (B, C, H, W), not {tuple(image.shape)}")
    if min(size) < 1:
        raise ValueError(f"the size {size[0]}x{size[1]} must be at least 1x1")
    if mode not in _SUPPORT:
        raise ValueError(f"mode must be one of {', '.join(_SUPPORT)}, not {mode!r}")
    work = image if image.dtype == torch.float64 else image.float()
    # 20 times faster than the taps below, but wrong in torch 2.13 for a new width of 1: all rows become equal
    if mode == "bicubic" and size[1] > 1:
        work = F.interpolate(work, size=list(size), mode="bicubic", antialias=True)
    else:
        work = _resample(_resample(work, size[1], -1, mode), size[0], -2, mode)
    return work.to(image.dtype) if work is not image else image.clone()


def resize_rows(
    read: Callable[[int, int], Tensor],
    old: tuple[int, int],
    new: tuple[int, int],
    top: int,
    bottom: int,
    mode: ResizeMode = "bicubic",
) -> Tensor:
    """Compute rows `top` to `bottom` of a resized image without the whole image in memory.

    Args:
        read: (first, last) -> those rows of the image, (B, C, last - first, w).
        old, new: (height, width) of the image and of the result.

    Returns:
        (B, C, bottom - top, new width), equal to the rows of `resize` up to float32 rounding.
    """
    enlargement = new[0] // old[0]
    if mode == "bicubic" and new == (enlargement * old[0], enlargement * old[1]):
        # torch's resize is 20 times faster, and exact for whole rows with the kernel's reach around them
        reach = _SUPPORT[mode] + 1
        first = max(0, top // enlargement - reach)
        last = min(old[0], -(-bottom // enlargement) + reach)
        strip = read(first, last)
        start = first * enlargement
        large = resize(strip, (strip.shape[2] * enlargement, new[1]), mode)
        return large[:, :, top - start : bottom - start]
    positions, weights = _taps(old[0], new[0], mode)
    positions, weights = positions[:, top:bottom], weights[:, top:bottom]
    first, last = int(positions.min()), int(positions.max()) + 1
    strip = read(first, last)
    wide = _resample(strip.float(), new[1], -1, mode)
    return _weighted(wide, positions - first, weights, -2).to(strip.dtype)


def _resample(image: Tensor, length: int, dim: int, mode: ResizeMode) -> Tensor:
    """Resample one axis. The sum over taps needs the memory of two results at most, whatever the sizes."""
    if image.shape[dim] == length:
        return image
    return _weighted(image, *_taps(image.shape[dim], length, mode), dim)


def _weighted(image: Tensor, positions: Tensor, weights: Tensor, dim: int) -> Tensor:
    positions = positions.to(image.device)
    weights = weights.to(image.device, image.dtype)
    shape = (-1, 1) if dim == -2 else (-1,)
    result = image.index_select(dim, positions[0]) * weights[0].view(shape)
    for position, weight in zip(positions[1:], weights[1:], strict=True):
        result = result.addcmul(image.index_select(dim, position), weight.view(shape))
    return result


def _taps(old: int, new: int, mode: ResizeMode) -> tuple[Tensor, Tensor]:
    """Return source positions (T, new) and normalised float64 weights (T, new) of the output positions."""
    ratio = old / new
    stretch = max(ratio, 1.0)
    reach = _SUPPORT[mode] * stretch
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * ratio
    first = (centre - reach + 0.5).floor().clamp(min=0)
    end = (centre + reach + 0.5).floor().clamp(max=old)
    count = min(2 * math.ceil(reach) + 1, old)
    positions = first + torch.arange(count, dtype=torch.float64)[:, None]
    weights = (_cubic if mode == "bicubic" else _lanczos)((positions + 0.5 - centre) / stretch)
    weights = torch.where(positions < end, weights, 0.0)
    return positions.clamp(max=old - 1).long(), weights / weights.sum(dim=0)


def _cubic(x: Tensor) -> Tensor:
    """Evaluate Keys' cubic convolution kernel with a = -0.5."""
    x = x.abs()
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, inner, torch.where(x < 2, outer, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    """Evaluate sinc(x) sinc(x / 3) within three lobes, 0 outside."""
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), 0.0)
