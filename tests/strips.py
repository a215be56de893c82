"""Arrays through a pipeline in strips of rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from linearsr import LinearSRPipeline

Array = NDArray[np.float32]


class ArrayRows:
    """Reads rows of an array (h, w, 3) in [0, 1], and collects those that are written."""

    def __init__(self, array: Array) -> None:
        self._array = array
        self.height, self.width = array.shape[:2]
        self.written: list[Array] = []

    def read(self, top: int, bottom: int) -> Array:
        return self._array[top:bottom]

    def write(self, rows: Array) -> None:
        self.written.append(rows)


def in_strips(pipe: LinearSRPipeline, image: Array, **how: Any) -> Array:
    """The result (H, W, 3) for an image (h, w, 3), both in [0, 1]; settings as for `upscale_rows`."""
    rows = ArrayRows(image)
    pipe.upscale_rows(rows, rows, **how)
    return np.concatenate(rows.written)
