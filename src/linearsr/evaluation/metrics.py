"""PSNR and SSIM, on the luma of studio-range YCbCr, as the super-resolution literature reports them, and on RGB.

The arithmetic has the type of the images: pass float64 for figures to print.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from linearsr.images.colour import rgb_to_y

SSIM_LEAST_SIDE = 11
"""Pixels: the side of its window."""
_C1, _C2 = 0.01**2, 0.03**2
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_LEAST_SIDE = 176
"""Pixels: four times halved, the 11x11 window must still fit (176 to 11)."""


def psnr_y(image: Tensor, reference: Tensor) -> float:
    """PSNR in dB on Y (BT.601, [16, 235] / 255), data range 1, no border crop.

    Args:
        image, reference: (B, 3, H, W) in [0, 1]; the mean over the batch of each image's PSNR is returned.
    """
    return _psnr(rgb_to_y(image), rgb_to_y(reference))


def psnr_rgb(image: Tensor, reference: Tensor) -> float:
    """PSNR in dB of the squared error averaged over R, G and B; otherwise as `psnr_y`."""
    return _psnr(image, reference)


def ssim_y(image: Tensor, reference: Tensor) -> float:
    """SSIM on Y (Wang et al. 2004: 11x11 Gaussian window of sigma 1.5), data range 1; arguments as `psnr_y`.

    Raises ValueError: a side below 11.
    """
    return _ssim(rgb_to_y(image), rgb_to_y(reference))


def ssim_rgb(image: Tensor, reference: Tensor) -> float:
    """Mean of the SSIM of R, G and B; otherwise as `ssim_y`."""
    return _ssim(image, reference)


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    """MS-SSIM on Y (Wang, Simoncelli and Bovik 2003: five scales, their weights); otherwise as `ssim_y`.

    Raises ValueError: a side below 176.
    """
    check_images("MS-SSIM", image, reference, MS_SSIM_LEAST_SIDE)
    return float(ms_ssim_values(image, reference).mean())


def ms_ssim_values(image: Tensor, reference: Tensor, all_scales: bool = True) -> Tensor:
    """MS-SSIM of each image of a batch, (B,), with gradients; arguments as `ms_ssim`.

    Args:
        all_scales: False leaves out the coarsest scales of images that are too small for them; the weights of the
            others are enlarged to the same sum.
    """
    check_images("MS-SSIM", image, reference)
    x, y = rgb_to_y(image), rgb_to_y(reference)
    scales = len(_MS_SSIM_WEIGHTS)
    while not all_scales and min(x.shape[-2:]) < SSIM_LEAST_SIDE * 2 ** (scales - 1):
        scales -= 1
    share = 1.0 if scales == len(_MS_SSIM_WEIGHTS) else sum(_MS_SSIM_WEIGHTS[:scales])
    value = x.new_ones(len(x))
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS[:scales]):
        luminance, contrast = _ssim_maps(x, y)
        mean = (luminance * contrast if scale == scales - 1 else contrast).mean((1, 2, 3))
        # images that are each other's negative: no root of a negative number
        value = value * mean.clamp(min=0) ** (weight / share)
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return value


def _psnr(image: Tensor, reference: Tensor) -> float:
    check_images("PSNR", image, reference)
    error = (image - reference).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())


def _ssim(image: Tensor, reference: Tensor) -> float:
    check_images("SSIM", image, reference, SSIM_LEAST_SIDE)
    luminance, contrast = _ssim_maps(image, reference)
    return float((luminance * contrast).mean())


def _ssim_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, (B, C, H - 10, W - 10): of the local means, and of contrast and structure."""
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x * mean_x
    variance_y = _local_mean(y * y) - mean_y * mean_y
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _local_mean(image: Tensor) -> Tensor:
    """In a Gaussian window that lies inside the image: one axis, then the other."""
    taps = torch.exp(-((torch.arange(SSIM_LEAST_SIDE).to(image) - SSIM_LEAST_SIDE // 2) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    planes = image.flatten(0, 1)[:, None]
    for shape in ((1, 1, SSIM_LEAST_SIDE, 1), (1, 1, 1, SSIM_LEAST_SIDE)):
        planes = F.conv2d(planes, taps.view(shape))
    return planes.view(*image.shape[:2], *planes.shape[-2:])


def check_images(name: str, image: Tensor, reference: Tensor, least_side: int = 1) -> None:
    """Raises ValueError for images (B, C, H, W) of two shapes, or with a side below `least_side`."""
    if image.shape != reference.shape:
        raise ValueError(f"image {tuple(image.shape)} and reference {tuple(reference.shape)} must be alike")
    height, width = image.shape[-2:]
    if min(height, width) < least_side:
        raise ValueError(f"{name} needs {least_side}x{least_side} pixels or more, not {width}x{height}")
