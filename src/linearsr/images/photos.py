"""HR photos as training, validation and `linearsr degrade` take them: 8-bit RGB, cut, with a generator each."""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from linearsr.images.io import DEFAULT_MAX_PIXELS, read_8_bit

if TYPE_CHECKING:
    from linearsr.images.degradation import Degradation


def read_rgb(source: Path | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, upright; alpha is dropped.

    Raises:
        ImageError: it cannot be read as an image.
    """
    samples = read_8_bit(source, max_pixels)
    return np.ascontiguousarray(np.broadcast_to(samples, (*samples.shape[:2], 3)))


def crop_to_multiple(photo: NDArray[np.uint8], multiple: int) -> NDArray[np.float32]:
    """Cut the right and lower border of (H, W, 3) so that both sides are multiples; values to [0, 1].

    Raises:
        ValueError: a side is shorter than `multiple`.
    """
    if min(photo.shape[:2]) < multiple:
        raise ValueError(f"{photo.shape[1]}x{photo.shape[0]} is too small for a scale of {multiple}")
    height, width = (side // multiple * multiple for side in photo.shape[:2])
    return photo[:height, :width].astype(np.float32) / np.float32(255)


def file_generator(seed: int, name: str) -> np.random.Generator:
    """The generator of one file: its draws do not depend on which other files there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])


def degraded_pair(
    path: Path, degradation: "Degradation", seed: int, scale: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A photo's (LR, HR): (h, w, 3) and (h scale, w scale, 3), in [0, 1] on the 8-bit grid.

    The HR image is cut to a multiple of the scale; the LR image follows from it, the seed and the file's stem.

    Raises:
        ImageError: the photo cannot be read.
        ValueError: the photo is smaller than one LR pixel.
    """
    from linearsr.images.degradation import degrade

    hr = crop_to_multiple(read_rgb(path, max_pixels), scale)
    return degrade(hr, degradation, file_generator(seed, path.stem), scale), hr
