"""Losses by formula that ask for detail, where the squared error asks for its mean.

Images are (B, 3, H, W) in [-1, 1]; every loss is a scalar, 0 for equal images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from linearsr.evaluation.haarpsi import haarpsi_values
from linearsr.evaluation.metrics import ms_ssim_values


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


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__: loss for loss in (l1, gradient, focal_frequency, ms_ssim, haarpsi)
}
"""By the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2
