"""What a bulk job has to do: each image among the inputs, where its result goes, and what is done already."""

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
"""Names of tar files; of the compressed ones, which have no random access, each is reported."""


@dataclass(frozen=True)
class Item:
    """One image of the inputs."""

    name: str
    """In the report: `sub/photo.jpg`, or `set-000.tar/0001.jpg` for the member of a tar file."""
    file: str
    """The file that holds it."""
    output: str
    """Where its result goes: `sub/photo.png`, `set-000/0001.png`, or the tar file that it becomes a member of."""
    offset: int | None = None
    size: int | None = None
    """Its bytes in a tar file; None: the file is the image."""


@dataclass(frozen=True)
class Places:
    """Where a job reads and writes, and how."""

    source: Store
    target: Store
    suffix: str
    """Of the results: `.png`, `.jpg`, `.webp`, `.tiff`."""
    shards: bool
    """From tar file to tar file, instead of from image to image."""
    overwrite: bool


@dataclass(frozen=True)
class Plan:
    """The images of a job, in a fixed order."""

    places: Places
    todo: list[Item]
    done: list[Item]
    """Their results exist."""
    problems: dict[str, str]
    """Inputs that cannot be used at all -> why."""

    def __len__(self) -> int:
        return len(self.todo) + len(self.done) + len(self.problems)


def make_plan(source: str, target: str, suffix: str, *, shards: bool, overwrite: bool) -> Plan:
    """Look for images, and for results that exist, unless these are to be overwritten.

    A tar file counts as a folder of its name. A result keeps its input's place and stem; where inputs share both
    (photo.jpg, photo.png), the type joins the stem (photo_jpg, photo_png), as for `linearsr upscale`.
    Raises BulkError if there is nothing to do, or the target is in the place of the source.

    Args:
        source: folder, tar file, image, or pattern; local or a URL.
        target: folder or URL for the results, whose names end in `suffix`.
        shards: each tar file becomes one tar file of results.
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
        raise BulkError(f"{source}: no images and no tar files there")
    if shards and files:
        raise BulkError(f"{source}: {files[0]} is no tar file, and --shards makes tar files from tar files")
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
    """The images in an uncompressed tar file, and what is wrong with it: where it breaks off, the rest is left out."""
    # by name: of several members of one name the last counts
    items: dict[str, Item] = {}
    problem = None
    try:
        with store.open(tar) as file, tarfile.open(fileobj=file, mode="r:") as members:
            for member in members:
                if member.isreg() and is_image_name(Path(PurePosixPath(member.name).name)):
                    name = f"{tar}/{member.name}"
                    items[name] = Item(name, tar, tar, member.offset_data, member.size)
            # tarfile takes a file that ends between two members for whole
            file.seek(members.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError) as error:
        problem = f"is no whole tar file ({error}): make a new one, uncompressed"
    return list(items.values()), problem or (None if items else "no images in this tar file")


def _named(items: Sequence[Item], suffix: str, problems: dict[str, str]) -> Iterator[Item]:
    """The items with their outputs; one whose output is another's already goes to the problems."""
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
    """The input's place under the target; no part of a tar member's name leads out of it."""
    if item.offset is None:
        return PurePosixPath(item.name)
    member = PurePosixPath(item.name[len(item.file) + 1 :])
    parts = [part for part in member.parts if part not in ("..", ".", "/")]
    return PurePosixPath(item.file).with_suffix("").joinpath(*parts)


def rows(items: Iterable[Item], *, shards: bool) -> list[Item]:
    """What is handed to a worker at once: an image; or a whole tar file, as an item of its name."""
    if not shards:
        return list(items)
    return [Item(tar, tar, tar) for tar in dict.fromkeys(item.file for item in items)]
