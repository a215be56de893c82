"""PSNR and SSIM on RGB, and on studio-range luma (YCbCr) as the super-resolution literature reports them.

They compute in the type of the images: pass float64 for figures to publish.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from linearsr.images.colour import rgb_to_y

SSIM_LEAST_SIDE = 11
"""Smallest side in pixels: the side of the window."""
_C1, _C2 = 0.01**2, 0.03**2
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_LEAST_SIDE = 176
"""Smallest side in pixels: halved four times (176 to 11), it must still hold the 11x11 window."""


def psnr_y(image: Tensor, reference: Tensor) -> float:
    """Return the PSNR in dB on Y (BT.601, [16, 235] / 255), data range 1, no border crop.

    Args:
        image, reference: (B, 3, H, W) in [0, 1]; the result is the mean over the batch of each image's PSNR.
    """
    return _psnr(rgb_to_y(image), rgb_to_y(reference))


def psnr_rgb(image: Tensor, reference: Tensor) -> float:
    """Return the PSNR in dB of the squared error averaged over R, G and B; otherwise as `psnr_y`."""
    return _psnr(image, reference)


def ssim_y(image: Tensor, reference: Tensor) -> float:
    """Return the SSIM on Y (Wang et al. 2004: 11x11 Gaussian window of sigma 1.5), data range 1.

    Arguments as for `psnr_y`. Raises ValueError for a side below 11.
    """
    return _ssim(rgb_to_y(image), rgb_to_y(reference))


def ssim_rgb(image: Tensor, reference: Tensor) -> float:
    """Return the mean SSIM of R, G and B; otherwise as `ssim_y`."""
    return _ssim(image, reference)


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    """Return the MS-SSIM on Y (Wang, Simoncelli and Bovik 2003, with their five scales and weights).

    Arguments as for `psnr_y`. Raises ValueError for a side below 176.
    """
    check_images("MS-SSIM", image, reference, MS_SSIM_LEAST_SIDE)
    return float(ms_ssim_values(image, reference).mean())


def ms_ssim_values(image: Tensor, reference: Tensor, all_scales: bool = True) -> Tensor:
    """Return the MS-SSIM of each image of a batch, (B,), with gradients; arguments as for `ms_ssim`.

    Args:
        all_scales: False leaves out the coarsest scales of images that are too small for them, and scales up
            the other weights to the same sum.
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
        # contrast is negative for images that are negatives of each other, and a power of it would be NaN
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
    """Return the two factors of SSIM, (B, C, H - 10, W - 10): luminance, and contrast with structure."""
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x * mean_x
    variance_y = _local_mean(y * y) - mean_y * mean_y
    covariance = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    return luminance, (2 * covariance + _C2) / (variance_x + variance_y + _C2)


def _local_mean(image: Tensor) -> Tensor:
    """Average in a Gaussian window that lies inside the image, along one axis and then the other."""
    taps = torch.exp(-((torch.arange(SSIM_LEAST_SIDE).to(image) - SSIM_LEAST_SIDE // 2) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    planes = image.flatten(0, 1)[:, None]
    for shape in ((1, 1, SSIM_LEAST_SIDE, 1), (1, 1, 1, SSIM_LEAST_SIDE)):
        planes = F.conv2d(planes, taps.view(shape))
    return planes.view(*image.shape[:2], *planes.shape[-2:])


def check_images(name: str, image: Tensor, reference: Tensor, least_side: int = 1) -> None:
    """Check images (B, C, H, W). Raises ValueError if shapes differ or a side is below `least_side`."""
    if image.shape != reference.shape:
        raise ValueError(f"image {tuple(image.shape)} and reference {tuple(reference.shape)} must be alike")
    height, width = image.shape[-2:]
    if min(height, width) < least_side:
        raise ValueError(f"{name} needs {least_side}x{least_side} pixels or more, not {width}x{height}")
