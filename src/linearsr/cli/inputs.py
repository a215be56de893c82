"""From what the user named - files, folders, patterns - to a list of jobs, each with its own output."""

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr.images.files import is_image_name

_RESULT_NAME = re.compile(r"(?P<name>.+)_x\d+(\.\d+)?")


@dataclass(frozen=True)
class Source:
    """An input, before it is known where its result goes."""

    path: Path
    relative: Path
    """Its place in the tree that is kept under an output folder."""
    error: str | None = None
    """Why it cannot be used, if that shows without decoding it."""
    searched: bool = False
    """Found in a folder or by a pattern, not named."""


@dataclass(frozen=True)
class Job:
    """One input and where its result goes, None if it makes no file; a job with an `error` has failed already."""

    input: Path
    output: Path | None
    error: str | None = None


def find_sources(arguments: Sequence[str], output_folder: Path | None = None) -> list[Source]:
    """All inputs, in the order given, a folder's in sorted order, each file once.

    Folders are walked to the bottom, without hidden files and without `output_folder`; of several folders each keeps
    its own name in the tree. A pattern that the shell has not expanded is expanded here.
    """
    several = sum(os.path.isdir(argument) for argument in arguments) > 1
    found: list[Source] = []
    for argument in arguments:
        path = Path(argument)
        if os.path.isdir(path):
            tree = Path(path.resolve().name) if several else Path()
            found += _walk(path, tree, output_folder)
        elif glob.has_magic(argument) and not os.path.lexists(path):
            found += _expand(argument, output_folder)
        else:
            found.append(_source(path, Path(path.name)))
    unique: dict[str, Source] = {}
    for source in found:
        unique.setdefault(_key(source.path), source)
    return list(unique.values())


def split_results(sources: Sequence[Source]) -> tuple[list[Source], list[Source]]:
    """(inputs, results of earlier runs).

    NAME_x4.png is taken for a result where NAME.* is an input beside it, or, if it was found by a search and not
    named, an image beside it at all.
    """
    beside = {source.path.parent for source in sources if source.searched}
    neighbours = [Path(folder, name) for folder in beside if folder.is_dir() for name in os.listdir(folder)]
    on_disk = {(path.parent, stem) for path in neighbours if is_image_name(path) for stem in _stems(path)}
    named = {(source.path.parent, stem) for source in sources for stem in _stems(source.path)}
    inputs: list[Source] = []
    results: list[Source] = []
    for source in sources:
        match = _RESULT_NAME.fullmatch(source.path.stem)
        origin = (source.path.parent, match["name"]) if match else None
        is_result = origin in named or (source.searched and origin in on_disk)
        (results if is_result else inputs).append(source)
    return inputs, results


def plan(sources: Sequence[Source], name_output: Callable[[Source, str], Path]) -> list[Job]:
    """One job for each source, no two with the same output, and none that would replace an input.

    `name_output(source, stem)` says where a result with this stem goes. Where several inputs would share an output
    (photo.jpg and photo.png), each one's type joins its name: photo_jpg and photo_png. What still cannot be kept
    apart is an error.
    """
    firsts = [name_output(source, source.path.stem) for source in sources]
    shared = Counter(map(_key, firsts))
    inputs = {_key(source.path) for source in sources}
    taken: dict[str, Path] = {}
    jobs = []
    for source, first in zip(sources, firsts, strict=True):
        output = first if shared[_key(first)] == 1 else name_output(source, _stems(source.path)[1])
        error = source.error
        if error is None and _key(output) in inputs:
            error = f"its result {output} would replace an input: choose another place with -o"
        if error is None and (other := taken.setdefault(_key(output), source.path)) != source.path:
            error = f"its result {output} is also that of {other}: rename one, or run them apart"
        jobs.append(Job(source.path, output if error is None else None, error))
    return jobs


def _stems(path: Path) -> tuple[str, str]:
    """The name without and with the type: ("photo", "photo_jpg")."""
    return path.stem, path.name.replace(".", "_")


def _key(path: Path) -> str:
    """Equal for two names of one file, existing or not."""
    return os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))


def _walk(folder: Path, tree: Path, output_folder: Path | None) -> list[Source]:
    found: list[Source] = []

    def unreadable(error: OSError) -> None:
        found.append(Source(Path(error.filename), Path(), f"cannot be opened: {error.strerror}"))

    left_out = None if output_folder is None else os.path.realpath(output_folder)
    for root, folders, files in os.walk(folder, onerror=unreadable):
        # in place: os.walk then goes into these only, in this order
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(root, name)) != left_out
        )
        for name in sorted(files):
            path = Path(root, name)
            if is_image_name(path):
                found.append(_source(path, tree / path.relative_to(folder), searched=True))
    if not found:
        return [Source(folder, tree, "no images in this folder")]
    return found


def _expand(pattern: str, output_folder: Path | None) -> list[Source]:
    """What a shell would make of the pattern, with folders walked; `**` goes down any number of folders."""
    root = _fixed_part(pattern)
    found: list[Source] = []
    for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
        if match.is_dir():
            inside = _walk(match, match.relative_to(root), output_folder)
            # nobody asked for images in each folder that a pattern happens to find
            found += [source for source in inside if source.path != match]
        else:
            found.append(_source(match, match.relative_to(root), searched=True))
    return found or [Source(Path(pattern), Path(), "no image matches this pattern")]


def _fixed_part(pattern: str) -> Path:
    """The folders at the beginning of a pattern that have no wildcard."""
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _source(path: Path, relative: Path, searched: bool = False) -> Source:
    return Source(path, relative, _problem(path), searched)


def _problem(path: Path) -> str | None:
    """Why a file cannot be used, as far as it shows without opening it: a pipe would wait for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "no such file" if not os.path.islink(path) else "is a link to a file that does not exist"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file: give an image file"
    if status.st_size == 0:
        return "is empty: copy or download it again"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    return None
