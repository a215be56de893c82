"""NIQE, a quality score that needs no reference: how far an image's statistics are from those of good photos.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal Processing Letters
20(3), 2013. Settings and rounding are those behind the figures of the super-resolution literature (BasicSR).
"""

from functools import cache
from importlib.resources import files
from statistics import fmean

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from linearsr.images.colour import rgb_to_y
from linearsr.images.resize import resize

BLOCK = 96
"""Rows and columns of a block at full size; what is left over at the right and below is cut off."""

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(image: Tensor) -> float:
    """NIQE of the luma: about 2 to 5 for a good photo. Lower is better, but faint grain lowers it too.

    Each block of 96x96 pixels is described by 36 numbers, 18 at full and 18 at half size; the score is the distance
    between the Gaussian fitted to them and that of a set of pristine photos (eq. 10 of the paper). Y is BT.601 in
    studio range, rounded to 8 bits as MATLAB's `rgb2ycbcr` does; no border crop.

    Args:
        image: (B, 3, H, W) in [0, 1]; the mean over the batch of each image's score is returned.

    Raises:
        ValueError: another shape; smaller than two by two blocks; or fewer than two blocks that are not flat.
    """
    luma = (rgb_to_y(image.double()) * 255).round()
    height, width = luma.shape[-2:]
    if min(height, width) < 2 * BLOCK:
        raise ValueError(f"NIQE needs {2 * BLOCK}x{2 * BLOCK} pixels or more, not {width}x{height}")
    return fmean(_distance(_features(y[None])) for y in luma)


def _distance(features: Tensor) -> float:
    """Between the Gaussian of (blocks, 36) and the pristine one: a Mahalanobis distance, the covariances averaged."""
    whole = features[~features.isnan().any(dim=1)]
    if len(whole) < 2:
        raise ValueError("NIQE needs two blocks that are not flat")
    pristine = _pristine()
    difference = features.nanmean(dim=0) - pristine["mean"].to(features)
    covariance = (whole.T.cov() + pristine["covariance"].to(features)) / 2
    return float((difference @ torch.linalg.solve(covariance, difference)).sqrt())


@cache
def _pristine() -> dict[str, Tensor]:
    """The published model of pristine photos: `mean` (36), `covariance` (36, 36), float64."""
    return load(files(__package__).joinpath("niqe_pristine.safetensors").read_bytes())


def _features(luma: Tensor) -> Tensor:
    """(1, 1, H, W) in [0, 255], float64 -> (blocks, 36); NaN where a block is too flat to have a number."""
    height, width = (side // BLOCK * BLOCK for side in luma.shape[-2:])
    full = luma[..., :height, :width]
    scales = [(full, BLOCK), (_half(full), BLOCK // 2)]
    return torch.cat([_block_features(_blocks(_normalised(image), side)) for image, side in scales], dim=1)


def _half(image: Tensor) -> Tensor:
    """MATLAB's `imresize(image, 0.5)`: antialiased bicubic on an image mirrored at its edges; sides even."""
    mirrored = torch.from_numpy(np.pad(image[0, 0].cpu().numpy(), 4, mode="symmetric")).to(image)
    height, width = mirrored.shape
    return resize(mirrored[None, None], (height // 2, width // 2))[..., 2:-2, 2:-2]


def _normalised(luma: Tensor) -> Tensor:
    """Each pixel minus its local mean, over its local deviation + 1 (eq. 1), in a 7x7 Gaussian of sigma 7/6."""
    # Sums in float64, kept in float32: a flat area gives exact zeros, whose sign is neither. The rounding error of
    # a float64 difference has a sign, which the features count, and which moved the score of photos by up to 0.03.
    mean, square = _blurred(luma).float(), _blurred(luma.square()).float()
    deviation = (square - mean.square()).abs().sqrt()
    return ((luma.float() - mean) / (deviation + 1)).double()


def _blurred(image: Tensor) -> Tensor:
    window = torch.exp(-((torch.arange(-3, 4).to(image) / (7 / 6)) ** 2) / 2)
    window /= window.sum()
    padded = F.pad(image, [3, 3, 3, 3], mode="replicate")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, 7)), window.view(1, 1, 7, 1))


def _blocks(image: Tensor, side: int) -> Tensor:
    """(1, 1, H, W) -> (blocks, side, side)."""
    return image[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def _block_features(blocks: Tensor) -> Tensor:
    """(N, h, w) -> (N, 18): the shape of the pixels' distribution, and of their products with four neighbours."""
    shape, left, right = _asymmetric_gaussian(blocks)
    columns = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, dims=(1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))  # eq. 8
        columns += [shape, mean, left, right]
    return torch.stack(columns, dim=1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian to each of N blocks by its moments (Lasmar et al. 2009).

    Returns its shape, left and right scale, each (N,); the shape is one of 0.2, 0.201, ... 10, and 0.2 where a block
    has no values of one sign: its scales are NaN.
    """
    square = blocks.square()
    left, right = (
        ((square * side).sum((1, 2)) / side.sum((1, 2))).sqrt() for side in (blocks < 0, blocks > 0)
    )
    skew = left / right
    ratio = blocks.abs().mean((1, 2)).square() / square.mean((1, 2))
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2

    shapes = torch.arange(200, 10_001).to(blocks) / 1000
    ratios = torch.exp(2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes))
    nearest = torch.bucketize(ratio.nan_to_num(nan=0.0), (ratios[1:] + ratios[:-1]) / 2)
    shape = shapes[nearest]
    to_scale = torch.exp((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2)
    return shape, left * to_scale, right * to_scale
