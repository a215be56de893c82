"""HaarPSI: the similarity of two images in the coefficients of a Haar wavelet.

Reisenhofer, Bosse, Kutyniok and Wiegand, "A Haar wavelet-based perceptual similarity index for image quality
assessment", Signal Processing: Image Communication 61, 2018.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from linearsr.evaluation.metrics import check_images
from linearsr.images.colour import rgb_to_yiq

_C, _ALPHA = 30.0, 4.2
_SCALES = 3
LEAST_SIDE = 2 ** (_SCALES + 1)
"""Smallest side in pixels: the image is halved, and the widest filter must fit into the half."""


def haarpsi(image: Tensor, reference: Tensor) -> float:
    """Return HaarPSI for colour (eq. 15 and 16 of the paper), from 0 to 1 for equal images. Higher is better.

    Computed on YIQ in [0, 255], averaged over two by two pixels first; no border crop.

    Arguments as for `psnr_y`. Raises ValueError for shapes that differ or are wrong, or a side below 16.
    """
    check_images("HaarPSI", image, reference, LEAST_SIDE)
    # halve the image: average over two by two pixels, keep every second average
    planes, planes_ref = (_averaged(rgb_to_yiq(x.double()) * 255)[..., ::2, ::2] for x in (image, reference))
    waves, waves_ref = _coefficients(planes[:, :1]), _coefficients(planes_ref[:, :1])
    # the coarsest scale gives the weights, the two finer ones are compared
    weights = torch.maximum(waves[-1], waves_ref[-1])
    finer = [_similarity(a, b) for a, b in zip(waves[:-1], waves_ref[:-1], strict=True)]
    similarity = (finer[0] + finer[1]) / 2
    chroma, chroma_ref = (_averaged(x[:, 1:]).abs() for x in (planes, planes_ref))
    similarity_of_chroma = _similarity(chroma, chroma_ref).mean(1, keepdim=True)

    maps = torch.cat([similarity, similarity_of_chroma], 1)
    weights = torch.cat([weights, weights.mean(1, keepdim=True)], 1)
    total = weights.sum((1, 2, 3))
    mean = (torch.sigmoid(_ALPHA * maps) * weights).sum((1, 2, 3)) / total
    # two flat images have no weights: all places count equally
    mean = torch.where(total > 0, mean, torch.sigmoid(_ALPHA * maps).mean((1, 2, 3)))
    return float((torch.logit(mean) / _ALPHA).square().mean())


def _similarity(a: Tensor, b: Tensor) -> Tensor:
    return (2 * a * b + _C) / (a.square() + b.square() + _C)


def _coefficients(luma: Tensor) -> list[Tensor]:
    """Return the absolute Haar coefficients (B, 2, H, W) of each scale, for horizontal and vertical edges."""
    scales = []
    for scale in range(1, _SCALES + 1):
        side = 2**scale
        step = luma.new_full((side, side), 2.0**-scale)
        step[side // 2 :] *= -1
        scales.append(_convolved(luma, torch.stack([step, step.T])[:, None]).abs())
    return scales


def _averaged(image: Tensor) -> Tensor:
    average = _convolved(image.flatten(0, 1)[:, None], image.new_full((1, 1, 2, 2), 0.25))
    return average.view(image.shape)


def _convolved(image: Tensor, kernels: Tensor) -> Tensor:
    """Convolve as MATLAB's `conv2(..., 'same')`: the same size, zeros outside, one more after than before."""
    before = (kernels.shape[-1] - 1) // 2
    after = kernels.shape[-1] - 1 - before
    return F.conv2d(F.pad(image, [before, after, before, after]), kernels)
