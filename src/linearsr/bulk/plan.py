"""The plan of a bulk job: every input image, where its result goes, and which results exist already."""

import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from linearsr.bulk.store import BulkError, Store, locate
from linearsr.images.files import is_image_name

REPORT_NAME = "report.parquet"
_INDEX_THREADS = 16
_TAR = re.compile(r"\.(tar|tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
"""Names of tar files. Compressed ones match too, to be reported, because they have no random access."""


@dataclass(frozen=True)
class Item:
    """An input image."""

    name: str
    """Name in the report: `sub/photo.jpg`, or `set-000.tar/0001.jpg` for a member of a tar file."""
    file: str
    """The image file, or the tar file that contains the image."""
    output: str
    """Where the result goes: `sub/photo.png`, `set-000/0001.png`, or the tar file that will contain it."""
    offset: int | None = None
    size: int | None = None
    """`offset` and `size`: position of its bytes in the tar file; None if the file is the image."""


@dataclass(frozen=True)
class Places:
    """Where a bulk job reads and writes, and how."""

    source: Store
    target: Store
    suffix: str
    """Suffix of the results: `.png`, `.jpg`, `.webp` or `.tiff`."""
    shards: bool
    """Whether each tar file becomes a tar file of results, instead of each image a file."""
    overwrite: bool


@dataclass(frozen=True)
class Plan:
    """The images of a job, in a fixed order."""

    places: Places
    todo: list[Item]
    done: list[Item]
    """Images whose results exist."""
    problems: dict[str, str]
    """Why inputs cannot be used, by name."""

    def __len__(self) -> int:
        return len(self.todo) + len(self.done) + len(self.problems)


def make_plan(source: str, target: str, suffix: str, *, shards: bool, overwrite: bool) -> Plan:
    """Find the images of a bulk job and, unless `overwrite` is set, the results that exist.

    A tar file counts as a folder. A result keeps the folder and stem of its input; if inputs share both
    (photo.jpg, photo.png), their type is added (photo_jpg, photo_png), as in `linearsr upscale`.
    Raises BulkError: there is no input, `shards` is set for an image, or the target is the source's folder.

    Args:
        source: folder, tar file, image, or pattern; a path or a URL.
        target: folder or URL for the results.
        suffix: suffix of the results, such as `.png`.
        shards: make one tar file of results from each tar file.
    """
    (store, names), results = locate(source), Store(target)
    place = results.place_in(store)
    if place == "":
        raise BulkError(f"{target} is the folder of the inputs: choose another one with -o")
    names = [name for name in names if place is None or not name.startswith(f"{place}/")]
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    files = [name for name in names if is_image_name(Path(name))]
    tars = [name for name in names if _TAR.search(name)]
    if not files and not tars:
        raise BulkError(f"{source}: contains no images or tar files")
    if shards and files:
        raise BulkError(f"{source}: {files[0]} is not a tar file; --shards reads and writes tar files")
    items = [Item(name, name, name) for name in files]
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(_INDEX_THREADS) as pool:
        for name, (found, problem) in zip(tars, pool.map(partial(_index, store), tars), strict=True):
            if problem is not None:
                problems[name] = problem
            if problem is None or not shards:
                items += found
    if not shards:
        items = list(_named(items, suffix, problems))
    there = set() if overwrite else set(results.names())
    return Plan(
        Places(store, results, suffix, shards, overwrite),
        [item for item in items if item.output not in there],
        [item for item in items if item.output in there],
        problems,
    )


def _index(store: Store, tar: str) -> tuple[list[Item], str | None]:
    """Return the images in an uncompressed tar file, up to where it breaks off, and what is wrong with it."""
    # if several members have the same name, the last one counts
    items: dict[str, Item] = {}
    problem = None
    try:
        with store.open(tar) as file, tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                if member.isreg() and is_image_name(Path(PurePosixPath(member.name).name)):
                    name = f"{tar}/{member.name}"
                    items[name] = Item(name, tar, tar, member.offset_data, member.size)
            # tarfile does not notice if a file ends between two members
            file.seek(members.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError) as error:
        problem = f"is not a complete tar file ({error}): make a new one, uncompressed"
    return list(items.values()), problem or (None if items else "no images in this tar file")


def _named(items: Sequence[Item], suffix: str, problems: dict[str, str]) -> Iterator[Item]:
    """Yield the items with their outputs; an item whose output is already taken goes to `problems`."""
    paths = [_output_path(item) for item in items]
    shared = Counter(path.with_suffix("") for path in paths)
    taken: dict[str, str] = {}
    for item, path in zip(items, paths, strict=True):
        stem = path.stem if shared[path.with_suffix("")] == 1 else path.name.replace(".", "_")
        output = str(path.with_name(f"{stem}{suffix}"))
        if (other := taken.setdefault(output, item.name)) != item.name:
            problems[item.name] = f"its result {output} is also that of {other}: rename one"
        else:
            yield Item(item.name, item.file, output, item.offset, item.size)


def _output_path(item: Item) -> PurePosixPath:
    """Return the path of an input under the target; names of tar members cannot lead out of it."""
    if item.offset is None:
        return PurePosixPath(item.name)
    member = PurePosixPath(item.name[len(item.file) + 1 :])
    parts = [part for part in member.parts if part not in ("..", ".", "/")]
    return PurePosixPath(item.file).with_suffix("").joinpath(*parts)


def rows(items: Iterable[Item], *, shards: bool) -> list[Item]:
    """Return the units of work for workers: each image or, with `shards`, each tar file as one item."""
    if not shards:
        return list(items)
    return [Item(tar, tar, tar) for tar in dict.fromkeys(item.file for item in items)]
