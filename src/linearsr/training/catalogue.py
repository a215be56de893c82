"""The HR photos that a run draws from: where each one lies, what it looks like, how often a pixel of it is drawn."""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from linearsr.images.io import ImageError
from linearsr.images.photos import detail_score, read_rgb
from linearsr.training.section import ConfigError

logger = logging.getLogger(__name__)

_THREADS = 4


@dataclass(frozen=True, slots=True)
class Photo:
    """One HR photo: a file of its own, or a member of a tar file."""

    path: Path
    height: int
    width: int
    weight: float
    """How often a pixel of it is drawn, relative to the others."""
    member: str = ""
    """Name inside the tar file `path`; empty for a file of its own."""
    offset: int = 0
    length: int = 0
    """Where its bytes lie in the tar file."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3), upright. Raises ImageError if it cannot be read."""
        try:
            return read_rgb(self._open())
        except OSError as error:
            hint = f"cannot be read ({error.strerror}); is the shard still there?"
            raise ImageError(self.name, hint) from error

    def _open(self) -> Path | BinaryIO:
        if not self.member:
            return self.path
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return NamedBytes(file.read(self.length), self.name)


class NamedBytes(BytesIO):
    """The bytes of a file, with a name for messages."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not drawn from, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Photos in a fixed order. Held as a table: a list of a million objects would be copied into every worker."""

    table: NDArray[Any]
    """The fields of `Photo`, one row a photo."""
    skipped: list[Skipped]
    """Broken files."""
    too_small: int
    """Photos left out because they do not hold one crop."""

    @classmethod
    def of(cls, photos: Sequence[Photo], skipped: Sequence[Skipped] = (), too_small: int = 0) -> "Catalogue":
        """The catalogue of `photos`, in their order."""
        columns: dict[str, NDArray[Any]] = {
            "path": np.array([os.fsencode(photo.path) for photo in photos]),
            "member": np.array([os.fsencode(photo.member) for photo in photos]),
            "weight": np.array([photo.weight for photo in photos], dtype=np.float64),
        }
        for name in ("height", "width", "offset", "length"):
            columns[name] = np.array([getattr(photo, name) for photo in photos], dtype=np.int64)
        table = np.empty(len(photos), dtype=[(name, column.dtype) for name, column in columns.items()])
        for name, column in columns.items():
            table[name] = column
        return cls(table, list(skipped), too_small)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Photo:
        path, member, weight, height, width, offset, length = self.table[index].item()
        return Photo(Path(os.fsdecode(path)), height, width, weight, os.fsdecode(member), offset, length)

    @property
    def areas(self) -> NDArray[np.int64]:
        """Pixels of each photo."""
        areas: NDArray[np.int64] = self.table["height"] * self.table["width"]
        return areas

    @property
    def pixels(self) -> int:
        """Of all photos together."""
        return int(self.areas.sum())

    @property
    def weights(self) -> NDArray[np.float64]:
        """How often a pixel of each photo is drawn."""
        weights: NDArray[np.float64] = self.table["weight"]
        return weights


class PhotoCache:
    """Decoded photos of a catalogue, (H, W, 3) uint8; the least recently used goes first.

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
        photo = self.catalogue[index].read()
        if photo.nbytes <= self.max_bytes:
            self._kept[index] = photo
            self.bytes += photo.nbytes
        while self.bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
        return photo


def best_photos(catalogue: Catalogue, share: float) -> Catalogue:
    """The `share` of the readable photos with the highest `detail_score`, rounded up, in their old order.

    With a share of 1 nothing is read.

    Raises:
        ConfigError: not one photo can be read.
    """
    if share == 1:
        return catalogue
    results = _scores(catalogue)
    broken = [result for result in results if isinstance(result, Skipped)]
    scores = np.array([-1.0 if isinstance(result, Skipped) else result for result in results])
    count = math.ceil(round(share * (len(scores) - len(broken)), 6))
    if not count:
        raise ConfigError(f"data.best_share: all photos are broken, e.g. {broken[0].reason}")
    best = np.sort(np.argsort(-scores, kind="stable")[:count])
    return replace(catalogue, table=catalogue.table[best], skipped=[*catalogue.skipped, *broken])


@cache
def _scores(catalogue: Catalogue) -> list[float | Skipped]:
    """One for each photo; read once, as all experts draw from the same photos."""
    with ThreadPoolExecutor(_THREADS) as pool:
        # a thread keeps the score and not the photo: all photos together need not fit the memory
        results = list(pool.map(_score, (catalogue[i] for i in range(len(catalogue)))))
    for result in results:
        if isinstance(result, Skipped):
            logger.warning("skipped: %s", result.reason)
    return results


def _score(photo: Photo) -> float | Skipped:
    try:
        return detail_score(photo.read())
    except ImageError as error:
        return Skipped(photo.name, str(error))
