"""How much crisp detail a photo holds: high for sharp texture, low for blur, flat areas and noise."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BLOCK = 16


def detail_score(photo: NDArray[np.uint8]) -> float:
    """Mean over blocks of log(1 + d), d the detail of a block in grey levels.

    f and c are the RMS of the luma's Laplacian in a block, at full and at half size. Crisp texture has f about as
    large as c; blur takes f away first, so where f <= c the detail is d = f. White noise has f = 2c, for halving
    averages four pixels: what f^2 has more than c^2 speaks for noise and is held against the block, which gives
    d^2 = max(0, 2 c^2 - f^2). The logarithm lets detail everywhere count for more than a few hard edges.

    Args:
        photo: (H, W, 3) RGB. If it does not hold one block at half size, the score is 0.
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
    """Mean square of the Laplacian in blocks of `size`."""
    centre = luma[1:-1, 1:-1]
    laplacian = 4 * centre - luma[:-2, 1:-1] - luma[2:, 1:-1] - luma[1:-1, :-2] - luma[1:-1, 2:]
    rows, columns = (side // size for side in laplacian.shape)
    blocks = laplacian[: rows * size, : columns * size].reshape(rows, size, columns, size)
    return np.asarray(np.square(blocks).mean(axis=(1, 3)))
