"""Find the images that the user named by files, folders, patterns, or lists of these."""

import glob
import os
import re
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr.images.files import RESULTS_MARK, URL_PROBLEM, is_image_name, is_marked, is_url
from linearsr.jobs.messages import shown

_RESULT_NAME = r"(?P<name>.+?)(_x\d+(\.\d+)?|(_\d+[wh]|_\d+(\.\d+)?mp)+{own})"


@dataclass(frozen=True)
class Source:
    """An input image, before its output is chosen."""

    path: Path
    relative: Path
    """Path of the input in the folder tree that is rebuilt under an output folder."""
    error: str | None = None
    """Why it cannot be used, as far as this is known without decoding it; None if nothing is wrong."""
    searched: bool = False
    """Whether it was found in a folder or by a pattern, instead of being named."""
    is_results: bool = False
    """Whether it is a folder of results of an earlier run."""
    name: str = ""
    """What the user called it; "" if that is its path."""


def read_lists(arguments: Sequence[str]) -> list[str]:
    """Replace each argument @LIST by the lines of the file LIST ("@-" reads stdin).

    Lines end with a line break, or with a zero byte if the list has any. An existing file whose name begins
    with @ is an image. Raises ValueError: a list cannot be read.
    """
    named: list[str] = []
    for argument in arguments:
        if not argument.startswith("@") or os.path.lexists(argument):
            named.append(argument)
            continue
        try:
            data = sys.stdin.buffer.read() if argument == "@-" else Path(argument[1:]).read_bytes()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"{shown(argument)}: the list cannot be read ({why}): check its name") from error
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0" if b"\0" in data else b"\n")
        named += [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
    return named


def find_sources(arguments: Sequence[str], output_folder: Path | None = None) -> list[Source]:
    """Return all inputs in the order given, those of a folder sorted, and each file once.

    Folders are searched with their subfolders, without hidden ones and `output_folder`. A folder with results
    of an earlier run is returned with `is_results` and not searched. If there are several folders, each keeps
    its name in the tree. A pattern that the shell has not expanded is expanded here.
    """
    folders = folders_of(arguments, output_folder)
    several = len(folders) > 1
    found: list[Source] = []
    for argument in arguments:
        path = Path(argument)
        if os.path.isdir(path) and argument not in folders:
            found.append(Source(path, Path(), is_results=True))
        elif os.path.isdir(path):
            tree = Path(path.resolve().name) if several else Path()
            found += _walk(path, tree, output_folder)
        elif os.path.lexists(path):
            found.append(Source(path, Path(path.name), _problem(path)))
        elif is_url(argument):
            found.append(Source(path, Path(path.name), URL_PROBLEM, name=argument))
        elif glob.has_magic(argument):
            found += _expand(argument, output_folder)
        else:
            found.append(Source(path, Path(path.name), _problem(path)))
    unique: dict[str, Source] = {}
    for source in found:
        unique.setdefault(key_of(source.path), source)
    return list(unique.values())


def folders_of(arguments: Sequence[str], output_folder: Path | None = None) -> list[str]:
    """Return the folders to search: of several arguments, none with results, since `*` matches these too."""
    place = output_folder and os.path.realpath(output_folder)
    return [
        each
        for each in filter(os.path.isdir, arguments)
        if len(arguments) == 1 or not (is_marked(each) or os.path.realpath(each) == place)
    ]


def split_results(
    sources: Sequence[Source], suffix: str | None = None, *, by_name: bool = True
) -> tuple[list[Source], list[Source]]:
    """Split sources into (inputs, results of earlier runs).

    Results are marked folders and, with `by_name`, single files: NAME_x4.png, or NAME with `suffix`, is one
    if NAME.* in the same folder is an input or, for a file that was found by a search, any image.
    """
    pattern = re.compile(
        _RESULT_NAME.format(own=f"|{re.escape(suffix)}" if suffix else ""),
        re.DOTALL,  # a name may have line breaks
    )
    beside = {source.path.parent for source in sources if source.searched}
    neighbours = [Path(folder, name) for folder in beside if folder.is_dir() for name in os.listdir(folder)]
    on_disk = {(path.parent, stem) for path in neighbours if is_image_name(path) for stem in stems(path)}
    named = {(source.path.parent, stem) for source in sources for stem in stems(source.path)}
    inputs: list[Source] = []
    results: list[Source] = []
    for source in sources:
        match = pattern.fullmatch(source.path.stem)
        origin = (source.path.parent, match["name"]) if match and by_name else None
        is_result = source.is_results or origin in named or (source.searched and origin in on_disk)
        (results if is_result else inputs).append(source)
    return inputs, results


def mark_results(folder: Path, arguments: Sequence[str]) -> None:
    """Mark an output folder that lies inside a folder the arguments search, so that later runs leave it out.

    Several files count as a search of their folders, because a shell may have expanded a pattern to them.
    """
    place = folder.resolve()
    is_search = len(arguments) > 1 or not os.path.isfile(arguments[0])
    if is_search and any(_root(each).resolve() in place.parents for each in arguments):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULTS_MARK).touch()


def _root(argument: str) -> Path:
    """Return the folder that an argument searches, or the folder of the file that it names."""
    if os.path.isdir(argument):
        return Path(argument)
    return Path(argument).parent if os.path.lexists(argument) else _fixed_part(argument)


def stems(path: Path) -> tuple[str, str]:
    """Return the name of a file without and with its type: ("photo", "photo_jpg")."""
    return path.stem, path.name.replace(".", "_")


def key_of(path: Path) -> str:
    """Return a key that is equal for two names of one file, whether it exists or not."""
    return os.path.normcase(os.path.join(os.path.realpath(path.parent), path.name))


def _walk(folder: Path, tree: Path, output_folder: Path | None) -> list[Source]:
    found: list[Source] = []

    def unreadable(error: OSError) -> None:
        found.append(Source(Path(error.filename), Path(), f"cannot be opened: {error.strerror}"))

    left_out = None if output_folder is None else os.path.realpath(output_folder)
    for root, folders, files in os.walk(folder, onerror=unreadable):
        inside = [Path(root, name) for name in sorted(folders) if not name.startswith(".")]
        inside = [path for path in inside if os.path.realpath(path) != left_out]
        found += [Source(path, Path(), is_results=True) for path in inside if is_marked(path)]
        # os.walk visits what is left in this list, in this order
        folders[:] = [path.name for path in inside if not is_marked(path)]
        for name in sorted(files):
            path = Path(root, name)
            if is_image_name(path):
                found.append(Source(path, tree / path.relative_to(folder), _problem(path), searched=True))
    if not found:
        return [Source(folder, tree, "no images in this folder")]
    return found


def _expand(pattern: str, output_folder: Path | None) -> list[Source]:
    """Expand a pattern as a shell would, and search the matching folders; `**` goes down to any depth."""
    root = _fixed_part(pattern)
    found: list[Source] = []
    for match in sorted(map(Path, glob.glob(pattern, recursive=True))):
        on_the_way = [folder for folder in (match, *match.parents) if root in folder.parents]
        marked = next(filter(is_marked, reversed(on_the_way)), None)
        if marked is not None:
            found.append(Source(marked, Path(), is_results=True))
        elif match.is_dir():
            inside = _walk(match, match.relative_to(root), output_folder)
            # a folder without images is no error here, as the pattern only happened to match it
            found += [source for source in inside if source.path != match]
        else:
            found.append(Source(match, match.relative_to(root), _problem(match), searched=True))
    return found or [Source(Path(pattern), Path(), "no image matches this pattern")]


def _fixed_part(pattern: str) -> Path:
    """Return the leading folders of a pattern that contain no wildcard."""
    fixed: list[str] = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def _problem(path: Path) -> str | None:
    """Return why a file cannot be used, or None. It is not opened, because a pipe would block for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "no such file" if not os.path.islink(path) else "is a link to a file that does not exist"
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file: give an image file"
    if status.st_size == 0:
        return "is empty: copy or download it again"
    if not os.access(path, os.R_OK):
        return "no permission to read it"
    return None
