"""Decoded photos, kept within a limit of memory: the least recently used goes first."""

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from linearsr.images.io import ImageError
from linearsr.images.photos import read_rgb
from linearsr.training.catalogue import Catalogue, Photo


class PhotoCache:
    """Photos of a catalogue as (H, W, 3) uint8.

    Args:
        catalogue: what may be asked for.
        max_bytes: limit of what is kept. A photo larger than that is read each time.
    """

    def __init__(self, catalogue: Catalogue, max_bytes: int) -> None:
        self.catalogue, self.max_bytes, self.bytes = catalogue, max_bytes, 0
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Raises ImageError if the photo turns out broken."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        photo = read_photo(self.catalogue[index])
        if photo.nbytes <= self.max_bytes:
            self._kept[index] = photo
            self.bytes += photo.nbytes
        while self.bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
        return photo


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """(H, W, 3) uint8, upright. Raises ImageError if it cannot be read."""
    try:
        return read_rgb(photo.open())
    except OSError as error:
        raise ImageError(
            photo.name, f"cannot be read ({error.strerror}); is the shard still there?"
        ) from error
