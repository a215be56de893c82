"""The HR photos that a run draws from: where each one lies, how large it is, how often a pixel of it is drawn."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


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

    def open(self) -> Path | BinaryIO:
        """What `read_rgb` reads. Raises OSError if the tar file cannot be read."""
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
    """Photos in a fixed order. Held as columns: a list of a million objects would be copied into every worker."""

    paths: NDArray[np.bytes_]
    members: NDArray[np.bytes_]
    spans: NDArray[np.int64]
    """(N, 2): offset and length in a tar file."""
    sizes: NDArray[np.int64]
    """(N, 2): height and width in pixels, as stored."""
    weights: NDArray[np.float64]
    skipped: list[Skipped]
    """Broken files."""
    too_small: int
    """Photos left out because they do not hold one crop."""

    @classmethod
    def of(cls, photos: Sequence[Photo], skipped: Sequence[Skipped] = (), too_small: int = 0) -> "Catalogue":
        """The catalogue of `photos`, in their order."""
        return cls(
            paths=np.array([os.fsencode(photo.path) for photo in photos]),
            members=np.array([os.fsencode(photo.member) for photo in photos]),
            spans=np.array([(photo.offset, photo.length) for photo in photos], dtype=np.int64),
            sizes=np.array([(photo.height, photo.width) for photo in photos], dtype=np.int64),
            weights=np.array([photo.weight for photo in photos], dtype=np.float64),
            skipped=list(skipped),
            too_small=too_small,
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Photo:
        (height, width), (offset, length) = self.sizes[index].tolist(), self.spans[index].tolist()
        path, member = Path(os.fsdecode(self.paths[index])), os.fsdecode(self.members[index])
        return Photo(path, height, width, float(self.weights[index]), member, offset, length)

    @property
    def pixels(self) -> int:
        """Of all photos together."""
        return int(self.sizes.prod(axis=1).sum())

    def take(self, indices: NDArray[np.int64]) -> "Catalogue":
        """The photos at `indices` alone."""
        return replace(
            self,
            paths=self.paths[indices],
            members=self.members[indices],
            spans=self.spans[indices],
            sizes=self.sizes[indices],
            weights=self.weights[indices],
        )
