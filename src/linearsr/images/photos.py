"""HR photos for training, validation and `linearsr degrade`: 8-bit RGB, cropped, each with a generator."""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linearsr.images.reading import DEFAULT_MAX_PIXELS, read_8_bit

if TYPE_CHECKING:
    from linearsr.images.degradation import Degradation


_BLOCK = 16


def read_rgb(
    source: Path | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS, strict: bool = True
) -> NDArray[np.uint8]:
    """Read an upright photo as uint8 (H, W, 3) without its alpha.

    Raises:
        ImageError: it cannot be read as an image or, if `strict`, has damage that `read_image` repairs.
    """
    samples = read_8_bit(source, max_pixels, strict)
    return np.ascontiguousarray(np.broadcast_to(samples, (*samples.shape[:2], 3)))


def crop_to_multiple(photo: NDArray[np.uint8], multiple: int) -> NDArray[np.float32]:
    """Crop (H, W, 3) at the right and bottom so that both sides are multiples, and scale it to [0, 1].

    Raises:
        ValueError: a side is shorter than `multiple`.
    """
    if min(photo.shape[:2]) < multiple:
        raise ValueError(f"{photo.shape[1]}x{photo.shape[0]} is too small for a scale of {multiple}")
    height, width = (side // multiple * multiple for side in photo.shape[:2])
    return photo[:height, :width].astype(np.float32) / np.float32(255)


def file_generator(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of one file, whose draws do not depend on the other files."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])


def degraded_pair(
    path: Path,
    degradation: "Degradation",
    seed: int,
    scale: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    source: Path | BinaryIO | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a photo's (LR, HR): (h, w, 3) and (h scale, w scale, 3), in [0, 1] on the 8-bit grid.

    The HR image is cropped to a multiple of the scale. The LR image depends only on it, the degradation, the
    seed and the stem of `path`. `source` provides the bytes of a photo that is not a file of its own.

    Raises:
        ImageError: the photo cannot be read.
        ValueError: the photo is smaller than one LR pixel.
    """
    from linearsr.images.degradation import degrade

    hr = crop_to_multiple(read_rgb(source or path, max_pixels), scale)
    return degrade(hr, degradation, file_generator(seed, path.stem), scale), hr


def detail_score(photo: NDArray[np.uint8]) -> float:
    """Return the mean over blocks of log(1 + d), where d is the detail of a block in grey levels.

    f and c are the RMS of the luma's Laplacian in a block, at full and at half size. In crisp texture f is
    about equal to c. Blur reduces f first, so where f <= c the detail is d = f. White noise has f = 2c,
    because halving averages four pixels: the excess of f^2 over c^2 indicates noise and is subtracted, which
    gives d^2 = max(0, 2 c^2 - f^2). The logarithm makes detail everywhere count for more than a few hard
    edges.

    Args:
        photo: (H, W, 3) RGB. If it is too small for one block at half size, the score is 0.
    """
    if min(photo.shape[:2]) < _BLOCK + 4:
        return 0.0
    luma = np.asarray(Image.fromarray(photo).convert("L"), dtype=np.float32)
    height, width = (side // 2 for side in luma.shape)
    half = luma[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
    fine, coarse = _block_energy(luma, _BLOCK), _block_energy(half, _BLOCK // 2)
    rows, columns = (min(sides) for sides in zip(fine.shape, coarse.shape, strict=True))
    fine, coarse = fine[:rows, :columns], coarse[:rows, :columns]
    energy = np.where(fine <= coarse, fine, np.maximum(0, 2 * coarse - fine))
    return float(np.log1p(np.sqrt(energy)).mean())


def _block_energy(luma: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the mean square of the Laplacian in blocks of `size` pixels a side."""
    centre = luma[1:-1, 1:-1]
    laplacian = 4 * centre - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    rows, columns = (side // size for side in laplacian.shape)
    blocks = laplacian[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(np.square(blocks).mean(axis=(1, 3)))
