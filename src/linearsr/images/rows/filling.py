"""`fill_transparent` of pictures that are not held: the same steps, by strips, on files of rows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linearsr.images.alpha import fill_unknown, grow_known, halve_known
from linearsr.images.picture import FloatArray
from linearsr.images.rows.row_file import RowFile

_HELD_PIXELS = 2**20
Read = Callable[[int, int], FloatArray]
"""(top, bottom) -> float32 (n, width, C + 1): colour, then 1 where it is known and 0 elsewhere."""


def fill_rows(read: Read, shape: tuple[int, int, int], path: Path) -> RowFile:
    """Fill in the colours of a picture of `shape` (H, W, C) that is known somewhere: rows of float32 at `path`."""
    height, width, channels = shape
    filled = RowFile(path, height, width, channels, np.dtype(np.float32))
    filled.clear()
    if height * width <= _HELD_PIXELS:
        filled.append(fill_unknown(*_split(read(0, height))))
        return filled
    halved = (-(-height // 2), -(-width // 2), channels + 1)
    coarse = RowFile(path.with_suffix(f".{halved[0]}"), *halved, filled.dtype)
    coarse.clear()
    for top, bottom in filled.strips(multiple=2):
        colour, known = halve_known(*_grown(read, top, bottom, height))
        coarse.append(np.concatenate([colour, known[..., None]], axis=2))
    far = fill_rows(coarse.read, (*halved[:2], channels), path.with_suffix(f".{halved[0]}.filled"))
    for top, bottom in filled.strips(multiple=2):
        colour, known = _grown(read, top, bottom, height)
        blocks = far.read(top // 2, -(-bottom // 2)).repeat(2, axis=0).repeat(2, axis=1)
        filled.append(np.where(known[..., None], colour, blocks[: bottom - top, :width]))
    coarse.path.unlink()
    far.path.unlink()
    return filled


def _split(rows: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    return rows[..., :-1], rows[..., -1] > 0


def _grown(read: Read, top: int, bottom: int, height: int) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Rows `top` to `bottom` after a step of 3x3 means, which looks at one row more on each side."""
    first = max(0, top - 1)
    colour, known = grow_known(*_split(read(first, min(height, bottom + 1))))
    return colour[top - first : bottom - first], known[top - first : bottom - first]
