"""NIQE: a quality score without reference, the distance of an image's statistics to those of good photos.

Mittal, Soundararajan and Bovik, "Making a completely blind image quality analyzer", IEEE Signal Processing
Letters 20(3), 2013. Settings and rounding are those of BasicSR, whose figures the super-resolution literature
reports.
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
"""Side of a block in pixels at full size; what does not fill a block at the right and below is cut off."""

_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(image: Tensor) -> float:
    """Return the NIQE of the luma: about 2 to 5 for a good photo. Lower is better; faint grain lowers it too.

    Each block of 96x96 pixels is described by 36 numbers, 18 at full and 18 at half size; the score is the distance
    between the Gaussian fitted to them and that of a set of pristine photos (eq. 10 of the paper). Y is BT.601 in
    studio range, rounded to 8 bits as MATLAB's `rgb2ycbcr` does; no border crop.

    Args:
        image: (B, 3, H, W) in [0, 1]; the result is the mean over the batch of each image's score.

    Raises:
        ValueError: another shape, fewer than two by two blocks, or fewer than two blocks that are not flat.
    """
    luma = (rgb_to_y(image.double()) * 255).round()
    height, width = luma.shape[-2:]
    if min(height, width) < 2 * BLOCK:
        raise ValueError(f"NIQE needs {2 * BLOCK}x{2 * BLOCK} pixels or more, not {width}x{height}")
    return fmean(_distance(_features(y[None])) for y in luma)


def _distance(features: Tensor) -> float:
    """Return the Mahalanobis distance, with averaged covariances, of (blocks, 36) to pristine photos."""
    whole = features[~features.isnan().any(dim=1)]
    if len(whole) < 2:
        raise ValueError("NIQE needs two blocks that are not flat")
    pristine = _pristine()
    difference = features.nanmean(dim=0) - pristine["mean"].to(features)
    covariance = (whole.T.cov() + pristine["covariance"].to(features)) / 2
    return float((difference @ torch.linalg.solve(covariance, difference)).sqrt())


@cache
def _pristine() -> dict[str, Tensor]:
    """Load the published model of pristine photos: `mean` (36), `covariance` (36, 36), float64."""
    return load(files(__package__).joinpath("niqe_pristine.safetensors").read_bytes())


def _features(luma: Tensor) -> Tensor:
    """Describe luma (1, 1, H, W), float64 in [0, 255], by (blocks, 36); NaN where a block is too flat."""
    height, width = (side // BLOCK * BLOCK for side in luma.shape[-2:])
    full = luma[..., :height, :width]
    scales = [(full, BLOCK), (_half(full), BLOCK // 2)]
    return torch.cat([_block_features(_blocks(_normalised(image), side)) for image, side in scales], dim=1)


def _half(image: Tensor) -> Tensor:
    """Halve an image of even sides, as MATLAB's `imresize(image, 0.5)`: antialiased bicubic, mirrored."""
    mirrored = torch.from_numpy(np.pad(image[0, 0].cpu().numpy(), 4, mode="symmetric")).to(image)
    height, width = mirrored.shape
    return resize(mirrored[None, None], (height // 2, width // 2))[..., 2:-2, 2:-2]


def _normalised(luma: Tensor) -> Tensor:
    """Subtract the local mean, divide by the local deviation + 1 (eq. 1), in a 7x7 Gaussian of sigma 7/6."""
    # Sum in float64, then round to float32, so that flat areas give exact zeros, which have no sign. A
    # float64 difference leaves rounding errors, whose signs the features count: they moved scores of photos
    # by up to 0.03.
    mean, square = _blurred(luma).float(), _blurred(luma.square()).float()
    deviation = (square - mean.square()).abs().sqrt()
    return ((luma.float() - mean) / (deviation + 1)).double()


def _blurred(image: Tensor) -> Tensor:
    window = torch.exp(-((torch.arange(-3, 4).to(image) / (7 / 6)) ** 2) / 2)
    window /= window.sum()
    padded = F.pad(image, [3, 3, 3, 3], mode="replicate")
    return F.conv2d(F.conv2d(padded, window.view(1, 1, 1, 7)), window.view(1, 1, 7, 1))


def _blocks(image: Tensor, side: int) -> Tensor:
    """Cut (1, 1, H, W) into (blocks, side, side)."""
    return image[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def _block_features(blocks: Tensor) -> Tensor:
    """Describe blocks (N, h, w) by (N, 18): fits of the pixels and of their products with four neighbours."""
    shape, left, right = _asymmetric_gaussian(blocks)
    columns = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, dims=(1, 2)))
        mean = (right - left) * torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))  # eq. 8
        columns += [shape, mean, left, right]
    return torch.stack(columns, dim=1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian to each of N blocks by its moments (Lasmar et al. 2009).

    Returns shape, left scale and right scale, each (N,). The shape is one of 0.2, 0.201, ... 10. For a block
    without values of one sign it is 0.2, and a scale is NaN.
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
