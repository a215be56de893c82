"""Luma for metrics, and correction of a result's colours by those of the LR image.

Shapes: B images, 3 channels (RGB), H rows, W columns; values in [0, 1] unless stated.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-R BT.601: luma weights, and the studio range, in which 8-bit Y is from 16 to 235.
_LUMA = (0.299, 0.587, 0.114)
_STUDIO_BLACK = 16 / 255
_STUDIO_SPAN = 219 / 255

_WAVELET_LEVELS = 4
WAVELET_REACH = 2**_WAVELET_LEVELS
"""Number of LR pixels in each direction that `wavelet_colour_fix` and `clamp_keeping_means` each look at."""


def to_unit(image: Tensor) -> Tensor:
    """Clamp a result to [0, 1]. Raises ValueError if a value is NaN or infinite."""
    if not image.isfinite().all():
        raise ValueError(
            "the result has values that are not finite (NaN or infinite): compute in float32 (--dtype float32), "
            "or load the model again"
        )
    return image.clamp(0, 1)


def rgb_to_y(x: Tensor) -> Tensor:
    """Return the studio-range luma of BT.601: (B, 3, H, W) in [0, 1] -> (B, 1, H, W) in [16/255, 235/255].

    Super-resolution papers report PSNR-Y and SSIM-Y on this Y (the `ycbcr` of MATLAB). The full-range Y of
    YIQ gives a PSNR that is 20 log10(255/219) = 1.32 dB lower.
    """
    _require_rgb(x, "image")
    weights = x.new_tensor(_LUMA).view(1, 3, 1, 1)
    return _STUDIO_BLACK + _STUDIO_SPAN * (x * weights).sum(dim=1, keepdim=True)


def rgb_to_yiq(x: Tensor) -> Tensor:
    """Return YIQ, full range: (B, 3, H, W) in [0, 1] -> (B, 3, H, W), Y in [0, 1], I and Q around 0.

    Uses the NTSC matrix to three digits, like the authors of HaarPSI. For PSNR-Y, use `rgb_to_y` instead.
    """
    _require_rgb(x, "image")
    matrix = x.new_tensor([_LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
    return torch.einsum("kc,bchw->bkhw", matrix, x)


def wavelet_colour_fix(image: Tensor, lr: Tensor) -> Tensor:
    """Replace the low frequencies of `image` (B, 3, H, W) by those of `lr` (B, 3, h, w) and keep its detail.

    This is the a trous wavelet of StableSR (Wang et al. 2024) on the LR grid: blurs with [1 2 1]/4 in each
    direction, dilated by 1, 2, 4 and 8, select the low frequencies of the difference between `lr` and the
    shrunken image. One level less would bring back the blotches of JPEG and sensors. A strip gives the same
    result as the whole image if it has `WAVELET_REACH` more LR pixels around it. The result has the shape of
    `image` and may leave [0, 1], which `clamp_keeping_means` corrects.

    Raises:
        ValueError: H and W are not the same whole multiple of h and w.
    """
    scale = image.shape[-1] // lr.shape[-1]
    if lr.ndim != 4 or image.shape != (*lr.shape[:2], scale * lr.shape[2], scale * lr.shape[3]):
        raise ValueError(
            f"image {tuple(image.shape)} must be a whole multiple of the LR image {tuple(lr.shape)}"
        )
    low = low_frequencies(lr - F.avg_pool2d(image, scale))
    return image + F.interpolate(low, size=image.shape[-2:], mode="bilinear")


def low_frequencies(x: Tensor) -> Tensor:
    """Return the low frequencies of (B, C, h, w) on the LR grid, by the blurs of `wavelet_colour_fix`."""
    for level in range(_WAVELET_LEVELS):
        x = _blur(_blur(x, 2**level, dim=-1), 2**level, dim=-2)
    return x


def clamp_keeping_means(image: Tensor, lr: Tensor) -> Tensor:
    """Clamp `image` (B, 3, H, W) to [0, 1] and keep its brightness: means over 32x32 pixels follow `lr`.

    The low frequencies of `lr` (B, 3, h, w) that clamping changes are put back as in `wavelet_colour_fix`. To
    put back higher ones, too, would follow the means of a noisy LR image more closely, but bring back
    blotches of its noise.

    Raises:
        ValueError: as `wavelet_colour_fix`, or a value is NaN or infinite.
    """
    return wavelet_colour_fix(to_unit(image), lr).clamp(0, 1)


def _blur(x: Tensor, dilation: int, dim: int) -> Tensor:
    """Convolve one axis with [1 2 1]/4, taps `dilation` apart, mirrored at its ends, which keeps the mean."""
    length = x.shape[dim]
    places = torch.arange(-dilation, length + dilation, device=x.device) % (2 * length)
    padded = x.index_select(dim, places.minimum(2 * length - 1 - places))
    sides = padded.narrow(dim, 0, length) + padded.narrow(dim, 2 * dilation, length)
    return sides.add_(x, alpha=2).mul_(0.25)


def _require_rgb(x: Tensor, name: str) -> None:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"{name} must have the shape (B, 3, H, W), not {tuple(x.shape)}")
