"""Losses by formula that ask for detail, where the squared error asks for its mean.

Images are (B, 3, H, W) in [-1, 1]; every loss is a scalar, 0 for equal images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.evaluation.haarpsi import haarpsi_values
from linearsr.evaluation.metrics import ms_ssim_values

_WINDOW = 32
_BESIDE = 3
"""Frequencies from a harmonic to those it is compared with: beyond what the Hann window spreads."""


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (image - reference).abs().mean()


def gradient(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, down and to the right."""
    error = image - reference
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def focal_frequency(image: Tensor, reference: Tensor) -> Tensor:
    """Squared error of the spectrum, each frequency weighted by its own error (Jiang et al. 2021, eq. 8; alpha 1)."""
    error: Tensor = torch.fft.fft2((image - reference).float(), norm="ortho").abs()
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
    """How much more of the error has a period of 4 pixels, or a part of it, than has periods nearby: the patches' mesh.

    Networks make an image from patches, and what they invent easily takes on the patches' period; the error of a photo
    prefers none. Measured by the amplitudes of the Fourier transform in windows of 32x32 pixels, whatever the phase;
    rows and columns that fill no window are left out.
    """
    error = (image - reference).float()
    windows = error.unfold(2, _WINDOW, _WINDOW).unfold(3, _WINDOW, _WINDOW)
    hann = torch.hann_window(_WINDOW, device=error.device)
    amplitude = torch.fft.fft2(windows * hann[:, None] * hann, norm="ortho").abs()
    harmonics = torch.arange(_WINDOW // 4, _WINDOW, _WINDOW // 4, device=error.device)

    def excess(axis: int) -> Tensor:
        beside = sum(amplitude.index_select(axis, harmonics + shift) for shift in (-_BESIDE, _BESIDE))
        return F.relu(amplitude.index_select(axis, harmonics) - beside / 2).mean()

    return excess(-1) + excess(-2)


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__: loss for loss in (l1, gradient, focal_frequency, ms_ssim, haarpsi, grid)
}
"""By the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2
