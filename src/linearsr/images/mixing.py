"""Fidelity: how much a picture takes, pixel by pixel, from the drawn picture (0) and from the mean (1).

Edges follow from the LR image, and texture mostly does not. So the mean counts more than the fidelity beside
edges, where an error costs most, and less in texture, which the mean has lost.

Shapes: B images, H rows, W columns; values in [-1, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW = 7
"""Side of the window in HR pixels over which difference and contrast are averaged."""
_SURROUNDINGS = 9
"""Side of the window whose mean a pixel's contrast is measured against."""
MIXING_REACH = _WINDOW // 2 + _SURROUNDINGS // 2
"""Number of HR pixels in each direction that `towards_mean` looks at."""
_TYPICAL = 0.1
"""Geometric mean of difference and contrast at which the mean has a weight equal to the fidelity."""
_LEAST = 0.004
"""Added to difference and contrast, so that no weight is 0 by chance."""


def towards_mean(drawn: Tensor, mean: Tensor, fidelity: float) -> Tensor:
    """Mix a drawn picture with the mean: (B, 3, H, W) twice -> the same shape.

    Odds of a weight are those of `fidelity`, above 0 and up to 1, times sqrt(difference * contrast) / 0.1: how
    much both pictures differ around the pixel, and how much contrast the mean has there.
    """
    drawn_luma, mean_luma = (x.mean(1, keepdim=True) for x in (drawn, mean))
    difference = _around((mean_luma - drawn_luma).abs(), _WINDOW)
    contrast = _around((mean_luma - _around(mean_luma, _SURROUNDINGS)).abs(), _WINDOW)
    odds = fidelity * ((difference + _LEAST) * (contrast + _LEAST)).sqrt() / _TYPICAL
    return torch.lerp(drawn, mean, odds / (1 - fidelity + odds))


def _around(x: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)
