"""The table of HR photos that a run draws from, built from the headers in folders and WebDataset shards.

A shard is a plain tar file whose members are grouped by key: the path up to the first dot of its last part.
The first image of a key is its photo. Shards are read by random access: reading them as a stream, as
`webdataset` does, would make a sample depend on the number of workers and on where a run was resumed.
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
    """How often one of its pixels is drawn, relative to those of other photos."""
    member: str = ""
    """Name inside the tar file `path`; empty for a file of its own."""
    offset: int = 0
    length: int = 0
    """Position of its bytes in the tar file."""
    latent_offset: int = 0
    latent_length: int = 0
    """Position of the bytes of its latent in the tar file; length 0: it has none."""

    @property
    def name(self) -> str:
        """The name that messages use."""
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> NDArray[np.uint8]:
        """Read the pixels (H, W, 3), upright. Raises ImageError: when they cannot be read."""
        try:
            return read_rgb(self.open())
        except OSError as error:
            hint = f"cannot be read ({error.strerror}); is the shard still there?"
            raise ImageError(self.name, hint) from error

    def open(self) -> Path | BinaryIO:
        """Return its path, or its bytes from the tar file. Raises OSError: when that cannot be read."""
        if not self.member:
            return self.path
        file = BytesIO(self._bytes(self.offset, self.length))
        file.name = self.name  # for messages
        return file

    def latent(self) -> NDArray[np.float16]:
        """Read its DC-AE latent (C, h', w'), made by `linearsr shard`. Raises ImageError: when unreadable."""
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
    """A file that is left out, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Photos in a fixed order, held as a table: each worker would copy a list of a million objects."""

    table: NDArray[Any]
    """The fields of `Photo`, one row per photo."""
    skipped: list[Skipped]
    """Broken files."""
    too_small: int
    """Number of photos left out because they are smaller than a crop."""

    @classmethod
    def of(cls, photos: Sequence[Photo], skipped: Sequence[Skipped] = (), too_small: int = 0) -> "Catalogue":
        names = [field.name for field in fields(Photo)]
        columns = {name: [getattr(photo, name) for photo in photos] for name in names}
        for name in ("path", "member"):  # names may contain bytes that are not valid text
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
        """Whether every photo is a square crop with sides of `side` pixels and has a latent."""
        table = self.table
        whole = (table["height"] == side) & (table["width"] == side) & (table["latent_length"] > 0)
        return bool(whole.all())


@cache
def read_catalogue(
    folders: tuple[tuple[Path, float], ...], shards: tuple[tuple[str, float], ...], hr_crop: int
) -> Catalogue:
    """Read every photo's header, once per process, and keep photos with sides of at least `hr_crop` pixels.

    Each source comes with a weight. Raises ConfigError: when a source holds no photos, or no photo is left.
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
    """Yield the photos in shards: a tar file, a folder of them, or a pattern. Raises as `read_catalogue`."""
    tars = _find_shards(pattern)
    for findings in pool.map(_look_into_shard, tars, [weight] * len(tars)):
        if not findings:
            raise ConfigError(f"data.shards: {pattern}: a shard has no images in it")
        yield from findings


def find_photos(folder: Path, key: str) -> list[Path]:
    """Return the image files under `folder`, sorted. Raises ConfigError: when there are none; names `key`."""
    found = list_images(folder)
    if not found:
        problem = "no images found" if folder.is_dir() else "is not a folder"
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
    """Return the photo with the size from its header."""
    try:
        height, width = read_size(source, photo.name)
    except ImageError as error:
        return Skipped(photo.name, str(error))
    return replace(photo, height=height, width=width)


def _look_into_shard(path: Path, weight: float) -> list[Photo | Skipped]:
    findings: list[Photo | Skipped] = []
    try:
        # only an uncompressed tar file allows random access
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
        hint = "make the tar file again, uncompressed"
        findings.append(Skipped(str(path), f"{path}: is a broken shard from here on ({error}): {hint}"))
    return findings


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".")[0])
