"""Drawings as opposed to photos: how they are recognised, and how pixel art stays sharp.

Text, charts, windows and sprites have the same few colours beside all of their edges; a photo has hundreds.

Shapes: B images, h w LR size in pixels, s scale.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.images.colour import WAVELET_REACH, low_frequencies

_EDGE = 48
"""Range of a channel within 3x3 pixels, in levels of 255, above which they hold an edge."""
_EDGE_REACH = 2
"""Number of pixels in each direction that decide whether a pixel is beside an edge."""
_COLOURS = 8
_PHOTO, _DRAWING = 0.28, 0.38
"""Shares of the common colours up to which an image is a photo, and from which it is a drawing. Of 4000
degraded photos, one in a thousand is above the first."""
_LEAST_PIXELS = 200
_BINS = 2**16
_STRIP_PIXELS = 2**20
_LEAST_SHARE = 0.1
"""Share of pixels that are not flat, below which they are given only part of what is taken around them."""
SQUARES_REACH = 3 + WAVELET_REACH
"""Number of LR pixels in each direction that `squares_where_lost` looks at."""
_NO_LOSS, _LOSS = 20, 30
"""Deviations from the LR image, in levels of 255, up to which nothing is lost, and from which all is."""


def likeness_to_drawing(read: Callable[[int, int], Tensor], size: tuple[int, int]) -> float:
    """Return how much an image is like a drawing, from 0, a photo, to 1, a drawing.

    It depends on the share of pixels beside edges that have one of the 8 most common colours there.

    Args:
        read: (top, bottom) -> those rows of an image, (1, 3, bottom - top, w) in [-1, 1]. All are read once.
        size: (h, w) of the image.
    """
    height, width = size
    counts = torch.zeros(_BINS, dtype=torch.int64)
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        first = max(0, top - _EDGE_REACH)
        levels = ((read(first, min(height, bottom + _EDGE_REACH)) + 1) * 127.5).round()
        edges = ((highest_around(levels) + highest_around(-levels)).amax(1, keepdim=True) > _EDGE).float()
        beside = highest_around(edges)[0, 0] > 0
        red, green, blue = levels[0, :, top - first : bottom - first][
            :, beside[top - first : bottom - first]
        ].long()
        # Knuth's multiplicative hash, because photos have too many colours for a bin each
        hashed = ((red << 16 | green << 8 | blue) * 2654435761 >> 8) % _BINS
        counts += torch.bincount(hashed, minlength=_BINS).cpu()
    # a colour that occurs only once says nothing
    common = int((counts.topk(_COLOURS).values - 1).clamp(min=0).sum())
    share = common / max(int(counts.sum()), _LEAST_PIXELS)
    return min(1.0, max(0.0, (share - _PHOTO) / (_DRAWING - _PHOTO)))


def squares_where_lost(image: Tensor, lr: Tensor, strength: float) -> Tensor:
    """Draw LR pixels as squares where an upscaled image has lost them, such as pixel art and dither.

    No network knows these. LR pixels that equal all of their neighbours become squares, too, so that flat
    areas stay flat. What the squares take from the low frequencies of `lr`, such as the light around sparse
    dots, is given to pixels that are not flat.

    Args:
        image: (B, 3, s h, s w) in about [0, 1].
        lr: (B, 3, h, w) in [0, 1].
        strength: weight of the squares, from 0 to 1.

    Returns:
        (B, 3, s h, s w).
    """
    flat = (highest_around(lr) == -highest_around(-lr)).all(1, keepdim=True).to(image.dtype)
    wrong = highest_around(lost(image, lr)).maximum(flat)
    made = torch.lerp(image, as_squares(lr, image), as_squares(strength * wrong, image))
    before, after = (F.avg_pool2d(x, x.shape[-1] // lr.shape[-1]) for x in (image, made))
    taken = low_frequencies(before - after)
    given = low_frequencies(lr - after).clamp(taken.clamp(max=0), taken.clamp(min=0))
    given = given * (1 - flat) / low_frequencies(1 - flat).clamp(min=_LEAST_SHARE)
    return made + as_squares(given, made)


def lost(image: Tensor, lr: Tensor) -> Tensor:
    """Find where an upscaled image is wrong because its means over s x s pixels are far from the LR image.

    Args:
        image: (B, C, s h, s w) in about [0, 1].
        lr: (B, C, h, w) in [0, 1].

    Returns:
        (B, 1, h, w) from 0, where it can be right, to 1. A value depends on two LR pixels in each direction.
    """
    scale = image.shape[-1] // lr.shape[-1]
    off = 255 * (F.avg_pool2d(image.clamp(0, 1), scale) - lr).abs().amax(1, keepdim=True)
    off = F.avg_pool2d(off, 5, 1, 2, count_include_pad=False)
    return ((off - _NO_LOSS) / (_LOSS - _NO_LOSS)).clamp(0, 1)


def as_squares(x: Tensor, image: Tensor) -> Tensor:
    """Enlarge LR pixels (B, C, h, w) to squares, in the size of an upscaled image (B, C, s h, s w)."""
    return F.interpolate(x, size=image.shape[-2:], mode="nearest")


def highest_around(x: Tensor) -> Tensor:
    """Return the highest value in 3x3 pixels around each pixel of (B, C, h, w), in the same shape."""
    return F.max_pool2d(x, 3, 1, 1)
