"""Image folders and WebDataset shards: finding the photos in them, by the headers alone.

A shard is a plain tar file whose members are grouped by key, the name up to the first dot of its last part; the
first image of a key is its photo. Shards are read at random places and not as a stream: sample number i must not
depend on how many workers or processes there are, and on where a run was resumed. (`webdataset` reads streams only,
and its sibling `wids`, which had an index, was dropped in 1.0; the index here is the stdlib's.)
"""

import logging
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from linearsr.images.files import is_image_name, list_images
from linearsr.images.io import ImageError, read_size
from linearsr.training.catalogue import Catalogue, Photo, Skipped
from linearsr.training.section import ConfigError

logger = logging.getLogger(__name__)

_THREADS = 8


def read_catalogue(folders: Mapping[Path, float], shards: Mapping[str, float], hr_crop: int) -> Catalogue:
    """Look at every photo's header and keep the photos that hold a crop.

    Args:
        folders: folder, searched to the bottom -> weight of a pixel in it.
        shards: tar file, folder of tar files, or pattern (`set-{000..012}.tar`, `set-*.tar`) -> weight.
        hr_crop: shortest side in pixels that a photo may have.

    Raises:
        ConfigError: a source does not exist or holds no photos, or no photo at all is left.
    """
    photos: list[Photo] = []
    skipped: list[Skipped] = []
    too_small = 0
    with ThreadPoolExecutor(_THREADS) as pool:
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
    folders: Mapping[Path, float], shards: Mapping[str, float], pool: ThreadPoolExecutor
) -> Iterator[Photo | Skipped]:
    for folder, weight in folders.items():
        paths = find_photos(folder, "data.folders")
        yield from pool.map(_look_at_file, paths, [weight] * len(paths))
    for pattern, weight in shards.items():
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
        raise ConfigError(f"{key}: {folder}: {problem}: give a folder with HR photos")
    return found


def _find_shards(pattern: str) -> list[Path]:
    from braceexpand import braceexpand

    found: list[Path] = []
    for part in braceexpand(pattern):
        path = Path(part)
        if path.is_dir():
            found += sorted(path.rglob("*.tar"))
        else:
            found += sorted(map(Path, glob(part, recursive=True))) if has_magic(part) else [path]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        what = f"{missing[0]} does not exist" if missing else "no tar files found"
        raise ConfigError(f"data.shards: {pattern}: {what}: give tar files or a folder of them")
    return found


def _look_at_file(path: Path, weight: float) -> Photo | Skipped:
    try:
        height, width = read_size(path, str(path))
    except ImageError as error:
        return Skipped(str(path), str(error))
    return Photo(path, height, width, weight)


def _look_into_shard(path: Path, weight: float) -> list[Photo | Skipped]:
    findings: list[Photo | Skipped] = []
    try:
        # only an uncompressed tar file can be read at any place
        with tarfile.open(path, "r:") as tar:
            findings.extend(_look_at_member(tar, path, member, weight) for member in _photos_of(tar))
    except (tarfile.TarError, OSError) as error:
        hint = "make it an uncompressed tar file anew"
        findings.append(Skipped(str(path), f"{path}: is a broken shard from here on ({error}): {hint}"))
    return findings


def _photos_of(tar: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    seen = ""
    for member in tar:
        key = _key(member.name)
        if member.isreg() and key != seen and is_image_name(Path(member.name)):
            seen = key
            yield member


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".")[0])


def _look_at_member(
    tar: tarfile.TarFile, path: Path, member: tarfile.TarInfo, weight: float
) -> Photo | Skipped:
    name = f"{path}/{member.name}"
    file = tar.extractfile(member)
    assert file is not None  # a regular member has bytes
    try:
        height, width = read_size(cast(BinaryIO, file), name)
    except ImageError as error:
        return Skipped(name, str(error))
    return Photo(path, height, width, weight, member.name, member.offset_data, member.size)
