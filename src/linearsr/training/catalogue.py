"""The HR photos that a run draws from: found in folders and WebDataset shards by their headers, kept as a table.

A shard is a plain tar file whose members are grouped by key, the name up to the first dot of its last part; the
first image of a key is its photo. Shards are read at random places: a stream, as `webdataset` reads it, would make a
sample depend on the number of workers and on where a run was resumed.
"""

import logging
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import cache
from glob import glob, has_magic
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from linearsr.images.files import is_image_name, list_images
from linearsr.images.photos import read_rgb
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_size
from linearsr.training.section import ConfigError

logger = logging.getLogger(__name__)

THREADS = 8
LATENT_SUFFIX = ".latent.npy"


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
    latent_offset: int = 0
    latent_length: int = 0
    """And those of its latents; 0: there are none."""

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3), upright. Raises ImageError if it cannot be read."""
        try:
            return read_rgb(self.open())
        except OSError as error:
            hint = f"cannot be read ({error.strerror}); is the shard still there?"
            raise ImageError(self.name, hint) from error

    def open(self) -> Path | BinaryIO:
        """Its file, or its bytes from the tar file. Raises OSError if that cannot be read."""
        if not self.member:
            return self.path
        file = BytesIO(self._bytes(self.offset, self.length))
        file.name = self.name  # for messages
        return file

    def latent(self) -> NDArray[np.float16]:
        """(C, h', w') of its DC-AE, as `linearsr shard` has put it beside the photo. Raises ImageError."""
        try:
            array: NDArray[np.float16] = np.load(BytesIO(self._bytes(self.latent_offset, self.latent_length)))
        except (OSError, ValueError, EOFError) as error:
            raise ImageError(self.name, f"has a latent that cannot be read ({error})") from error
        return array

    def _bytes(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)


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
        names = [field.name for field in fields(Photo)]
        columns = {name: [getattr(photo, name) for photo in photos] for name in names}
        for name in ("path", "member"):  # which may have bytes that are no text
            columns[name] = list(map(os.fsencode, columns[name]))
        arrays = [np.array(column) for column in columns.values()]
        kinds = [(name, array.dtype) for name, array in zip(names, arrays, strict=True)]
        return cls(np.rec.fromarrays(arrays, dtype=kinds), list(skipped), too_small)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Photo:
        path, height, width, weight, member, *place = self.table[index].item()
        return Photo(Path(os.fsdecode(path)), height, width, weight, os.fsdecode(member), *place)

    @property
    def areas(self) -> NDArray[np.int64]:
        areas: NDArray[np.int64] = self.table["height"] * self.table["width"]
        return areas

    def has_latents(self, side: int) -> bool:
        """Whether every photo is a crop of that side with its latents."""
        table = self.table
        whole = (table["height"] == side) & (table["width"] == side) & (table["latent_length"] > 0)
        return bool(whole.all())


@cache
def read_catalogue(
    folders: tuple[tuple[Path, float], ...], shards: tuple[tuple[str, float], ...], hr_crop: int
) -> Catalogue:
    """Look at every photo's header, once in a process, and keep the photos that hold a crop of `hr_crop` pixels a side.

    Each source comes with the weight of a pixel in it. Raises ConfigError if a source holds no photos, or none is left.
    """
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    too_small = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for finding in _findings(folders, shards, pool):
            if isinstance(finding, Skipped):
                logger.warning("skipped: %s", finding.reason)
                skipped.append(finding)
            elif min(finding.height, finding.width) < hr_crop:
                too_small += 1
            else:
                photos.append(finding)
    if not photos:
        key = "data.folders" if folders else "data.shards"
        if not too_small:
            raise ConfigError(f"{key}: all {len(skipped)} files are broken, e.g. {skipped[0].reason}")
        raise ConfigError(
            f"{key}: every photo is smaller than the HR crop of {hr_crop} px: lower data.lr_crop"
        )
    return Catalogue.of(photos, skipped, too_small)


def _findings(
    folders: Iterable[tuple[Path, float]], shards: Iterable[tuple[str, float]], pool: ThreadPoolExecutor
) -> Iterator[Photo | Skipped]:
    for folder, weight in folders:
        photos = [Photo(path, 0, 0, weight) for path in find_photos(folder, "data.folders")]
        yield from pool.map(_measured, photos, [photo.path for photo in photos])
    for pattern, weight in shards:
        yield from look_into_shards(pattern, pool, weight)


def look_into_shards(
    pattern: str, pool: ThreadPoolExecutor, weight: float = 1.0
) -> Iterator[Photo | Skipped]:
    """The photos in shards: a tar file, a folder of tar files, or a pattern. Raises as `read_catalogue`."""
    tars = _find_shards(pattern)
    for findings in pool.map(_look_into_shard, tars, [weight] * len(tars)):
        if not findings:
            raise ConfigError(f"data.shards: {pattern}: a shard has no images in it")
        yield from findings


def find_photos(folder: Path, key: str) -> list[Path]:
    """Image files under `folder`, sorted. Raises ConfigError, naming `key`, if there are none."""
    found = list_images(folder)
    if not found:
        problem = "no images found" if folder.is_dir() else "is no folder"
        shards = " (tar files belong in data.shards)" if any(folder.glob("*.tar")) else ""
        raise ConfigError(f"{key}: {folder}: {problem}: give a folder with HR photos{shards}")
    return found


def _find_shards(pattern: str) -> list[Path]:
    from braceexpand import braceexpand

    found: list[Path] = []
    for part in braceexpand(pattern):
        if Path(part).is_dir():
            found += sorted(Path(part).rglob("*.tar"))
        else:
            found += sorted(map(Path, glob(part, recursive=True))) if has_magic(part) else [Path(part)]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        what = f"{missing[0]} does not exist" if missing else "no tar files found"
        raise ConfigError(f"data.shards: {pattern}: {what}: give tar files or a folder of them")
    return found


def _measured(photo: Photo, source: Path | BinaryIO) -> Photo | Skipped:
    """The photo with the size that its header tells."""
    try:
        height, width = read_size(source, photo.name)
    except ImageError as error:
        return Skipped(photo.name, str(error))
    return replace(photo, height=height, width=width)


def _look_into_shard(path: Path, weight: float) -> list[Photo | Skipped]:
    findings: list[Photo | Skipped] = []
    try:
        # only an uncompressed tar file can be read at any place
        with tarfile.open(path, "r:") as tar:
            key = ""
            for member in filter(tarfile.TarInfo.isreg, tar):
                known = _key(member.name) == key
                if not known and is_image_name(Path(member.name)):
                    key = _key(member.name)
                    photo = Photo(path, 0, 0, weight, member.name, member.offset_data, member.size)
                    findings.append(_measured(photo, cast(BinaryIO, tar.extractfile(member))))
                elif known and member.name.endswith(LATENT_SUFFIX) and isinstance(findings[-1], Photo):
                    place = {"latent_offset": member.offset_data, "latent_length": member.size}
                    findings[-1] = replace(findings[-1], **place)  # type: ignore[arg-type]
    except (tarfile.TarError, OSError) as error:
        hint = "make it an uncompressed tar file anew"
        findings.append(Skipped(str(path), f"{path}: is a broken shard from here on ({error}): {hint}"))
    return findings


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".")[0])
