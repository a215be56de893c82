"""FSIM, similarity of features: where an image has edges and lines, and how steep they are.

Zhang, Zhang, Mou and Zhang, "FSIM: a feature similarity index for image quality assessment", IEEE Transactions on Image
Processing 20(8), 2011; phase congruency after Kovesi, "Image features from phase congruency", Videre 1(3), 1999.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from linearsr.evaluation.metrics import check_images
from linearsr.images.colour import rgb_to_yiq

_SCALES, _ORIENTATIONS = 4, 4
_SHORTEST_WAVE, _WAVE_FACTOR = 6, 2
_BANDWIDTH = 0.55
_ANGLE = math.pi / _ORIENTATIONS / 1.2
_NOISE_DEVIATIONS, _NOISE_DIVISOR = 2.0, 1.7
_T_PHASE, _T_GRADIENT, _T_CHROMA = 0.85, 160.0, 200.0
_CHROMA_POWER = 0.03
_SIDE = 256
"""The shorter side is averaged down to about this many pixels, as far as whole numbers allow."""


def fsim(image: Tensor, reference: Tensor) -> float:
    """FSIMc, the variant for colour (eq. 9 of the paper): 1 for equal images. Higher is better.

    Phase congruency and gradient on Y, chroma on I and Q of YIQ in [0, 255]; no border crop.

    Arguments as `psnr_y`. Raises ValueError for shapes that differ or are others.
    """
    check_images("FSIM", image, reference)
    factor = max(1, math.floor(min(image.shape[-2:]) / _SIDE + 0.5))
    planes = [F.avg_pool2d(rgb_to_yiq(x.double()) * 255, factor) for x in (image, reference)]
    (y, i, q), (y_ref, i_ref, q_ref) = (plane.chunk(3, dim=1) for plane in planes)

    phase, phase_ref = _phase_congruency(y), _phase_congruency(y_ref)
    local = _similarity(phase, phase_ref, _T_PHASE)
    local = local * _similarity(_gradient(y), _gradient(y_ref), _T_GRADIENT)
    chroma = _similarity(i, i_ref, _T_CHROMA) * _similarity(q, q_ref, _T_CHROMA)
    # the real part of the power, which is complex where the product is negative
    angle = torch.where(chroma < 0, math.cos(math.pi * _CHROMA_POWER), 1.0)
    local = local * chroma.abs() ** _CHROMA_POWER * angle
    weight = torch.maximum(phase, phase_ref)
    # two flat images have no features to differ in
    total = weight.sum((1, 2, 3))
    value = torch.where(total == 0, 1.0, (local * weight).sum((1, 2, 3)) / total)
    return float(value.mean())


def _similarity(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a.square() + b.square() + constant)


def _gradient(luma: Tensor) -> Tensor:
    """Magnitude of the Scharr gradient, zero outside the image."""
    kernel = luma.new_tensor([[3.0, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    both = F.conv2d(luma, torch.stack([kernel, kernel.T])[:, None], padding=1)
    return both.square().sum(1, keepdim=True).sqrt()


def _phase_congruency(luma: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 1, H, W) in [0, 1]: how far waves of all lengths are in step at each pixel."""
    height, width = luma.shape[-2:]
    radial, angular = _filters(height, width)
    spectrum = torch.fft.fft2(luma)
    energy, amplitude = torch.zeros_like(luma), torch.zeros_like(luma)
    for spread in angular:
        bank = radial * spread  # (scales, H, W)
        response = torch.fft.ifft2(spectrum * bank)  # (B, scales, H, W); even part real, odd part imaginary
        total = response.sum(1, keepdim=True)
        direction = total / (total.abs() + torch.finfo(luma.dtype).eps)
        turned = response * direction.conj()
        aligned = (turned.real - turned.imag.abs()).sum(1, keepdim=True)
        energy += (aligned - _noise_threshold(response, bank)).clamp(min=0)
        amplitude += response.abs().sum(1, keepdim=True)
    return energy / (amplitude + torch.finfo(luma.dtype).eps)


def _noise_threshold(response: Tensor, bank: Tensor) -> Tensor:
    """(B, 1, 1, 1): the energy that noise alone would have, judged by the finest scale.

    The noise in a response is Rayleigh distributed; its power there follows from the median of the squared amplitude.
    """
    median = response[:, 0].abs().square().flatten(1).quantile(0.5, dim=1)
    power = median / math.log(2) / bank[0].square().sum()
    impulse = torch.fft.ifft2(bank).real.sum(0) * math.sqrt(bank[0].numel())
    tau = (power * impulse.square().sum()).sqrt()
    mean, deviation = tau * math.sqrt(math.pi / 2), tau * math.sqrt(2 - math.pi / 2)
    threshold: Tensor = (mean + _NOISE_DEVIATIONS * deviation) / _NOISE_DIVISOR
    return threshold.view(-1, 1, 1, 1)


@lru_cache(maxsize=4)
def _filters(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Log-Gabor filters over frequency: (scales, H, W) along the radius and (orientations, H, W) along the angle."""
    down, across = torch.meshgrid(_frequencies(height), _frequencies(width), indexing="ij")
    radius, angle = torch.hypot(down, across), torch.atan2(-down, across)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    waves = _SHORTEST_WAVE * _WAVE_FACTOR ** torch.arange(_SCALES, dtype=torch.float64).view(-1, 1, 1)
    radius[0, 0] = 1
    radial = torch.exp(-((radius * waves).log() ** 2) / (2 * math.log(_BANDWIDTH) ** 2)) * low_pass
    radial[:, 0, 0] = 0
    centres = torch.arange(_ORIENTATIONS, dtype=torch.float64).view(-1, 1, 1) * math.pi / _ORIENTATIONS
    turn = angle - centres
    distance = torch.atan2(turn.sin(), turn.cos())
    return radial, torch.exp(-(distance**2) / (2 * _ANGLE**2))


def _frequencies(length: int) -> Tensor:
    """Cycles per pixel in the order of the FFT; of an odd length the ends are -0.5 and 0.5, as in Kovesi's code."""
    first = length // 2
    ramp = torch.arange(length, dtype=torch.float64) - first
    shifted: Tensor = torch.fft.ifftshift(ramp / max(1, length - length % 2))
    return shifted
