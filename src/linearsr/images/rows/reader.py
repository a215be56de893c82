"""Reading of an image file by rows, as RGB for a network and alpha separately."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from linearsr.images.alpha import fill_unknown, grow_known, halve_known
from linearsr.images.metadata import Keep
from linearsr.images.picture import FloatArray
from linearsr.images.rows.decoding import decode
from linearsr.images.rows.row_file import RowFile

DEFAULT_MAX_PIXELS = 1_000_000_000
_HELD_PIXELS = 2**20
Read = Callable[[int, int], FloatArray]
"""(top, bottom) -> float32 (n, width, C + 1): colour, then 1 where it is known and 0 elsewhere."""


class RowReader:
    """An upright still image that can be read by rows any number of times; it is decoded once, into `folder`.

    `height`, `width`: of the upright image. `is_grey`, `has_alpha`, `bits` (8 or 16) and `notes`: as in the
    file. `alpha_varies`: whether it has alpha that is not the same everywhere.

    Args:
        path: an image file of any kind that `read_image` reads.
        folder: folder for the decoded rows.
        max_pixels: the most pixels an image may have.
        keep, strict: as for `read_image`.

    Raises:
        ImageError: one line that says what is wrong with the file.
        ValueError: the file must be decoded in one piece, which does not fit in memory.
        ImportError: the extra `large` is not installed.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        keep: Keep = "all",
        strict: bool = False,
    ) -> None:
        rows, self.notes = decode(path, folder, max_pixels, keep, strict)
        self._rows, self.height, self.width = rows, rows.height, rows.width
        self.has_alpha, self.is_grey = rows.channels in {2, 4}, rows.channels in {1, 2}
        self.bits: Literal[8, 16] = 16 if rows.dtype.itemsize == 2 else 8
        lowest, highest = self._alpha_range() if self.has_alpha else (1, 1)
        self.alpha_varies = lowest < highest
        self._filled = self._fill(folder / "filled.rows") if lowest == 0 < highest else None

    def read(self, top: int, bottom: int) -> FloatArray:
        """Return RGB (bottom - top, width, 3) in [0, 1]: grey repeated, colours under alpha 0 filled in."""
        if self._filled is not None:
            colour = self._filled.read(top, bottom)
        else:
            colour = self._samples(top, bottom)[..., : 1 if self.is_grey else 3]
        return np.array(np.broadcast_to(colour, (*colour.shape[:2], 3)))

    def read_alpha(self, top: int, bottom: int) -> FloatArray:
        """Return rows of alpha (bottom - top, width) in [0, 1]. Only for images with alpha."""
        alpha: FloatArray = self._samples(top, bottom)[..., -1]
        return alpha

    def _samples(self, top: int, bottom: int) -> FloatArray:
        rows = self._rows.read(top, bottom)
        return rows.astype(np.float32) / np.float32(np.iinfo(rows.dtype).max)

    def _alpha_range(self) -> tuple[int, int]:
        alphas = (self._rows.read(top, bottom)[..., -1] for top, bottom in self._rows.strips())
        lowest, highest = zip(*((int(alpha.min()), int(alpha.max())) for alpha in alphas), strict=True)
        return min(lowest), max(highest)

    def _fill(self, path: Path) -> RowFile:
        def read(top: int, bottom: int) -> FloatArray:
            samples = self._samples(top, bottom)
            samples[..., -1] = samples[..., -1] > 0
            return samples

        return _fill_rows(read, (self.height, self.width, self._rows.channels - 1), path)


def _fill_rows(read: Read, shape: tuple[int, int, int], path: Path) -> RowFile:
    """Apply `fill_transparent` by strips to (H, W, C), known somewhere; write float32 rows to `path`."""
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
    far = _fill_rows(coarse.read, (*halved[:2], channels), path.with_suffix(f".{halved[0]}.filled"))
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
    """Return rows `top` to `bottom` after a step of 3x3 means, which needs one more row on each side."""
    first = max(0, top - 1)
    colour, known = grow_known(*_split(read(first, min(height, bottom + 1))))
    return colour[top - first : bottom - first], known[top - first : bottom - first]
