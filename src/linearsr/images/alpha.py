"""Transparency in upscaling: invisible colours are replaced, and alpha is enlarged separately."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.images.graphics import as_squares, highest_around, lost
from linearsr.images.picture import FloatArray
from linearsr.images.resize import resize

ALPHA_REACH = 3
"""Number of pixels of alpha in each direction that `checked_alpha` looks at."""


def fill_transparent(colour: FloatArray, alpha: FloatArray) -> FloatArray:
    """Replace the colour (H, W, C) of pixels with alpha 0 by that of the visible pixels around them.

    Editors leave black or white under transparent pixels, and every filter or network would smear it over the
    visible edge. `alpha` is (H, W). Visible pixels are returned unchanged; if none is visible, all are. The
    colours spread from near to far: a step of 3x3 means, then the same on the image at half size
    ("pull-push", Gortler et al. 1996, sec. 3.4).
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return colour
    return fill_unknown(colour, visible)


def resize_alpha(alpha: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Resample alpha (H, W) to `size` (height, width): bicubic, clamped to [0, 1]."""
    clamped: FloatArray = resize(_as_image(alpha), size)[0, 0].clamp(0, 1).numpy()
    return clamped


def checked_alpha(drawn: FloatArray, alpha: FloatArray) -> FloatArray:
    """Correct `drawn`, the alpha that a network has made of `alpha` as a grey image.

    `drawn` and the result are (s h, s w), `alpha` is (h, w). Each value is clamped to the range of the 3x3
    pixels of `alpha` around it, so opaque areas stay opaque. Where the network has lost them, alpha is
    resized instead.
    """
    image, lr = _as_image(drawn), _as_image(alpha)
    image = torch.lerp(image, resize(lr, drawn.shape), as_squares(lost(image, lr), image))
    low, high = (as_squares(x, image) for x in (-highest_around(-lr), highest_around(lr)))
    checked: FloatArray = image.clamp(low, high)[0, 0].numpy()
    return checked


def _as_image(alpha: FloatArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(alpha))[None, None]


def fill_unknown(colour: FloatArray, known: NDArray[np.bool_]) -> FloatArray:
    """Fill in unknown pixels by the steps of `fill_transparent`; colour (H, W, C) must be known somewhere."""
    colour, known = grow_known(colour, known)
    if known.all():
        return colour
    height, width = known.shape
    rows, columns = np.arange(height) // 2, np.arange(width) // 2
    coarse = fill_unknown(*halve_known(colour, known))
    return np.where(known[..., None], colour, coarse[rows][:, columns])


def grow_known(colour: FloatArray, known: NDArray[np.bool_]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Give unknown pixels the mean of their known 3x3 neighbours; return colour and the known pixels."""
    height, width = known.shape
    weight = np.pad(known.astype(np.float32)[..., None], ((1, 1), (1, 1), (0, 0)))
    weighted = np.pad(colour * known[..., None], ((1, 1), (1, 1), (0, 0)))
    shifts = [np.s_[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    count = np.sum([weight[shift] for shift in shifts], axis=0)
    total = np.sum([weighted[shift] for shift in shifts], axis=0)
    mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return np.where(known[..., None], colour, mean), count[..., 0] > 0


def halve_known(colour: FloatArray, known: NDArray[np.bool_]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Average the known pixels in blocks of 2x2; return colour and the known pixels, at half size."""
    height, width = known.shape
    margin = ((0, height % 2), (0, width % 2), (0, 0))
    weight = _block_sums(np.pad(known.astype(np.float32)[..., None], margin))
    total = _block_sums(np.pad(colour * known[..., None], margin))
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0), weight[..., 0] > 0


def _block_sums(array: FloatArray) -> FloatArray:
    return array[0::2, 0::2] + array[1::2, 0::2] + array[0::2, 1::2] + array[1::2, 1::2]
