"""Losses by formula that ask for detail, where the squared error asks for its mean.

Images are (B, 3, H, W) in [-1, 1]; every loss is a scalar, 0 for equal images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.evaluation.haarpsi import haarpsi_values
from linearsr.evaluation.metrics import ms_ssim_values

_CELL = 8


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (image - reference).abs().mean()


def gradient(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, down and to the right."""
    error = image - reference
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def focal_frequency(image: Tensor, reference: Tensor) -> Tensor:
    """Squared error of the spectrum, each frequency weighted by its own error (Jiang et al. 2021, eq. 8; alpha 1)."""
    error: Tensor = torch.fft.rfft2((image - reference).float(), norm="ortho").abs()
    weight = error.detach()
    weight = weight / weight.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-8)
    return (weight * error.square()).mean()


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """1 - MS-SSIM on Y, over as many of its five scales as the images have room for."""
    return 1 - ms_ssim_values(_unit(image), _unit(reference), all_scales=False).mean()


def haarpsi(image: Tensor, reference: Tensor) -> Tensor:
    """1 - HaarPSI."""
    return 1 - haarpsi_values(_unit(image), _unit(reference)).mean()


def grid(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error that repeats in all cells of 8x8 pixels of a window of 8x8 cells: a grid of the network's.

    Networks make an image from patches, and what they invent easily takes on the patches' period. The error of a photo
    has none, so its mean over 64 cells is near zero. Sides are multiples of 8; rows and columns of cells that fill no
    window make smaller ones.
    """
    error = F.pixel_unshuffle(image - reference, _CELL)
    pattern = F.avg_pool2d(error, _CELL, ceil_mode=True, count_include_pad=False)
    colours = pattern.unflatten(1, (image.shape[1], -1))
    return (colours - colours.mean(dim=2, keepdim=True)).abs().mean()


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__: loss for loss in (l1, gradient, focal_frequency, ms_ssim, haarpsi, grid)
}
"""By the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2
