"""Alpha of a large picture: a pass before the colours draws it as a grey picture."""

from pathlib import Path

import numpy as np

from linearsr.images.alpha import ALPHA_REACH, checked_alpha
from linearsr.images.picture import FloatArray
from linearsr.images.rows.reader import RowReader
from linearsr.images.rows.row_file import RowFile

_MOST = 65535


class DrawnAlpha:
    """Reads alpha as a grey picture for `stream`, takes what that makes of it at the model's own scale, and checks it.

    Args:
        source: an image with alpha.
        folder: for what is drawn, in 16 bits.
        scale: the model's own.
    """

    def __init__(self, source: RowReader, folder: Path, scale: int) -> None:
        self._source, self._scale = source, scale
        self.height, self.width = source.height, source.width
        self.size = scale * source.height, scale * source.width
        self._drawn = RowFile(folder / "alpha.rows", *self.size, 1, np.dtype(np.uint16))

    @property
    def is_whole(self) -> bool:
        """Whether all rows are drawn."""
        return self._drawn.is_whole

    @property
    def bytes(self) -> int:
        """Bytes of disk that it takes."""
        return self._drawn.height * self._drawn.row_bytes

    def read(self, top: int, bottom: int) -> FloatArray:
        """See `streaming.source.RowReader`."""
        return self._source.read_alpha(top, bottom)[..., None].repeat(3, axis=2)

    def write(self, rows: FloatArray) -> None:
        """See `streaming.source.RowWriter`."""
        self._drawn.append(np.rint(rows.mean(axis=2, keepdims=True) * _MOST))

    def clear(self) -> None:
        """Begin at row 0 again."""
        self._drawn.clear()

    def checked(self, top: int, bottom: int) -> FloatArray:
        """Rows of the result, (bottom - top, scale * width) in [0, 1]."""
        first = max(0, top // self._scale - ALPHA_REACH)
        last = min(self.height, -(-bottom // self._scale) + ALPHA_REACH)
        start = first * self._scale
        drawn = self._drawn.read(start, last * self._scale)[..., 0].astype(np.float32) / np.float32(_MOST)
        return checked_alpha(drawn, self._source.read_alpha(first, last))[top - start : bottom - start]
