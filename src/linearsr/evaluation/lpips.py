"""LPIPS: the distance of two images in the features of a network trained to classify photos.

Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a perceptual metric", CVPR
2018: version 0.1 with AlexNet, the variant that the super-resolution literature reports.
"""

from functools import cache
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import Tensor
from torch.nn import functional as F

from linearsr.evaluation.metrics import check_images

LEAST_SIDE = 31
"""Smallest side in pixels: one place is left of it after the strided convolution and two poolings."""

_MEAN = (-0.030, -0.088, -0.188)
_DEVIATION = (0.458, 0.448, 0.450)
"""Mean and standard deviation of R, G and B of photos in [-1, 1]."""
_STRIDES = (4, 1, 1, 1, 1)
_PADDINGS = (2, 2, 1, 1, 1)
_POOLED = (1, 2)
"""Indices of the convolutions that follow a max pooling of stride 2."""


def lpips(image: Tensor, reference: Tensor) -> float:
    """Return LPIPS (eq. 1): 0 for equal images, about 0.1 to 0.5 for upscaled photos. Lower is better.

    Computed on RGB, no border crop. The network computes in float32, whatever the type of the images.

    Arguments as for `psnr_y`. Raises ValueError for shapes that differ, or a side below 31.
    """
    with torch.no_grad():
        return float(lpips_values(image, reference).double().mean())


def lpips_values(image: Tensor, reference: Tensor) -> Tensor:
    """Return LPIPS of each image of a batch, (B,) float32, with gradients; otherwise as `lpips`."""
    check_images("LPIPS", image, reference, LEAST_SIDE)
    weights = _weights(image.device)
    distance = image.new_zeros(len(image), dtype=torch.float32)
    pairs = zip(_features(image, weights), _features(reference, weights), strict=True)
    for layer, (mine, theirs) in enumerate(pairs):
        difference = (mine - theirs).square() * weights[f"heads.{layer}"].view(-1, 1, 1)
        distance = distance + difference.sum(1).mean((1, 2))
    return distance


def _features(image: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """Return features (B, C, h, w) after each of AlexNet's five convolutions, of length 1 at each place."""
    mean, deviation = (image.new_tensor(x, dtype=torch.float32).view(3, 1, 1) for x in (_MEAN, _DEVIATION))
    x = (image.float() * 2 - 1 - mean) / deviation
    features = []
    for layer, (stride, padding) in enumerate(zip(_STRIDES, _PADDINGS, strict=True)):
        if layer in _POOLED:
            x = F.max_pool2d(x, kernel_size=3, stride=2)
        weight, bias = weights[f"convolutions.{layer}.weight"], weights[f"convolutions.{layer}.bias"]
        x = F.conv2d(x, weight, bias, stride, padding).relu()
        features.append(F.normalize(x, dim=1, eps=1e-10))
    return features


@cache
def _weights(device: torch.device) -> dict[str, Tensor]:
    """Load the weights of convolutions and heads (C) as float32; published in float32, stored in float16."""
    numbers = files(__package__).joinpath("lpips_alexnet.safetensors").read_bytes()
    # ordinary tensors, not inference tensors: gradients may flow through them later
    with torch.inference_mode(False):
        return {name: value.to(device, torch.float32) for name, value in load(numbers).items()}
