"""Names of results: one job for each image, and no two jobs with the same output.

`-`, an image from stdin or a result to stdout, becomes a file in a temporary folder.
"""

import os
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from linearsr.images.files import IMAGE_SUFFIXES, suffix_for
from linearsr.jobs.messages import shown
from linearsr.jobs.sources import Source, key_of, stems
from linearsr.settings import Format

_SUFFIXES = {"jpeg": ".jpg"}
"""Suffixes of formats whose suffix is not their name."""
_UNKNOWN_TYPE = re.compile(r"\.[A-Za-z]\w{1,4}")
"""A suffix that looks like the type of a picture rather than the end of a folder's name."""


@dataclass(frozen=True)
class Job:
    """One input and its output; `output` is None if the job makes no file, or has failed with an `error`."""

    input: Path
    output: Path | None
    error: str | None = None
    name: str = ""
    """What the user called the input; "" if that is its path."""
    output_name: str = ""
    """What the user called the output; "" if that is its path."""

    @property
    def label(self) -> str:
        """Name of the input in messages."""
        return shown(self.name or self.input)

    @property
    def output_label(self) -> str:
        """Name of the output in messages."""
        return shown(self.output_name or self.output or "")

    @property
    def is_made(self) -> bool:
        """Whether a file or folder with the name of the output exists."""
        return self.output is not None and os.path.lexists(self.output)


@dataclass(frozen=True)
class OutputPlace:
    """Where results go: into one `file`, into a `folder`, or beside each input if both are None.

    `format`: the file type; None keeps that of each input if it can be written, else PNG. `suffix`: text to
    add to each name; None adds the size to results that lie beside their input, and nothing to others.
    """

    file: Path | None
    folder: Path | None
    format: Format | None = "png"
    suffix: str | None = None

    def namer(self, size: str) -> Callable[[Source, str], Path]:
        """Return a function (source, stem) -> path of the result; `size` ("_x4") is the default suffix."""

        def name(source: Source, stem: str) -> Path:
            if self.file is not None:
                return self.file
            folder = source.path.parent if self.folder is None else self.folder / source.relative.parent
            added = self.suffix if self.suffix is not None else size if self.folder is None else ""
            return folder / f"{stem}{added}{self._type(source.path)}"

        return name

    def _type(self, path: Path) -> str:
        if self.format is None:
            return path.suffix if path.suffix.lower() in _writable() else ".png"
        return _SUFFIXES.get(self.format, f".{self.format}")


def output_place(
    arguments: Sequence[str], output: Path | None, format: Format | None, suffix: str | None = None
) -> OutputPlace:
    """Interpret `-o`: an existing folder, or a name without the suffix of an image, is a folder; else a file.

    Raises ValueError: an unknown type, a file for several inputs, a place that cannot be written to, a format
    that does not match the file, or a suffix that is not part of a file name or has no effect.
    """
    if suffix is not None and (os.path.basename(suffix) != suffix or "\0" in suffix):
        raise ValueError(f"--suffix {shown(suffix)} is not part of a file name: use text such as _large")
    kind: Format | None = None if format == "same" else format or "png"
    if output is None:
        return OutputPlace(None, None, kind, suffix)
    one_file = len(arguments) == 1 and os.path.isfile(arguments[0])
    if one_file and not os.path.isdir(output) and _UNKNOWN_TYPE.fullmatch(output.suffix):
        _check_type(output)
    if os.path.isdir(output) or output.suffix.lower() not in IMAGE_SUFFIXES:
        check_folder(output)
        return OutputPlace(None, output, kind, suffix)
    if len(arguments) != 1 or os.path.isdir(arguments[0]):
        raise ValueError(f"-o {shown(output)} names a single image: give a folder for several inputs")
    _check_type(output)
    types = _writable()
    if format and kind and types[output.suffix.lower()] != types[_SUFFIXES.get(kind, f".{kind}")]:
        raise ValueError(f"-o {shown(output)} does not match --format {format}: change one of them")
    if suffix is not None:
        raise ValueError(
            f"--suffix has no effect on -o {shown(output)}, which is a file name: leave one of them out"
        )
    check_folder(output.parent)
    return OutputPlace(output, None)


def check_folder(folder: Path) -> None:
    """Check an output folder. Raises ValueError: it is not writable, or neither exists nor can be made."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        raise ValueError(
            f"{shown(folder)}: {shown(there)} is a file, not a folder: choose another place with -o"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"{shown(folder)}: no permission to write in {shown(there)}: choose another place with -o"
        )


def plan(sources: Sequence[Source], name_output: Callable[[Source, str], Path]) -> list[Job]:
    """Make one job for each source, such that no two share an output and none replaces an input.

    `name_output(source, stem)` returns the path of a result with this stem. If inputs would share an output,
    those from several folders (a/p.jpg and b/p.jpg) keep their folders, and those from one folder (photo.jpg
    and photo.png) add their type: photo_jpg and photo_png. A remaining conflict makes a job with an `error`.
    """
    sources = _with_their_folders(sources, [name_output(source, source.path.stem) for source in sources])
    firsts = [name_output(source, source.path.stem) for source in sources]
    shared = Counter(map(key_of, firsts))
    inputs = {key_of(source.path) for source in sources}
    taken: dict[str, Path] = {}
    jobs = []
    for source, first in zip(sources, firsts, strict=True):
        output = first if shared[key_of(first)] == 1 else name_output(source, stems(source.path)[1])
        error = source.error
        if error is None and key_of(output) in inputs:
            error = f"its result {output} would replace an input: choose another place with -o"
        if error is None and (other := taken.setdefault(key_of(output), source.path)) != source.path:
            error = f"its result {output} is also the result of {other}: rename one of them"
        jobs.append(Job(source.path, output if error is None else None, error, source.name))
    return jobs


def _with_their_folders(sources: Sequence[Source], outputs: Sequence[Path]) -> list[Source]:
    """Return the sources; those from several folders that would share an output get these into `relative`."""
    alike: dict[str, list[int]] = defaultdict(list)
    for place, output in enumerate(outputs):
        alike[key_of(output)].append(place)
    placed = list(sources)
    for places in alike.values():
        paths = {place: Path(os.path.abspath(sources[place].path)) for place in places}
        if len({path.parent for path in paths.values()}) > 1:
            top = os.path.commonpath([path.parent for path in paths.values()])
            for place, path in paths.items():
                placed[place] = replace(sources[place], relative=path.relative_to(top))
    return placed


def _writable() -> dict[str, str]:
    from linearsr.images.writing import FORMATS

    return FORMATS


def _check_type(output: Path) -> None:
    suffix = output.suffix.lower()
    if suffix not in _writable():
        hint = "" if suffix in IMAGE_SUFFIXES else "; if it is to be a folder, make it first"
        raise ValueError(
            f"-o {shown(output)}: cannot write {output.suffix}: choose {', '.join(_writable())}{hint}"
        )


@dataclass(frozen=True)
class Pipes:
    """Inputs and output as paths. `source`: the image from stdin; `to_stdout`: write the result to stdout."""

    names: Sequence[str]
    output: Path | None
    source: Path | None = None
    to_stdout: bool = False

    def called(self, job: Job) -> Job:
        """Return a job with `-` as the name of stdin and stdout."""
        return replace(
            job,
            name="-" if job.input == self.source else job.name,
            output_name="-" if self.to_stdout else job.output_name,
        )


@contextmanager
def piped(names: Sequence[str], output: Path | None) -> Iterator[Pipes]:
    """Yield inputs and output, with temporary files in place of `-`. Stdin alone goes to stdout by default.

    Raises ValueError: stdin or stdout is a terminal, stdout is to take several images, or stdin needs `-o`.
    """
    to_stdout = str(output) == "-" or (output is None and list(names) == ["-"])
    if "-" not in names and not to_stdout:
        yield Pipes(names, output)
        return
    if to_stdout and (len(names) != 1 or Path(names[0]).is_dir()):
        raise ValueError("-o - can write only one image: give a folder for several inputs")
    if to_stdout and sys.stdout.isatty():
        raise ValueError("-o - would write an image to the terminal: send stdout to a file or a program")
    if "-" in names and output is None and not to_stdout:
        raise ValueError("stdin has no folder for its result: add -o")
    if "-" in names and sys.stdin.isatty():
        raise ValueError(
            "- reads an image from stdin, which is the terminal: send a file or a program's output"
        )
    with TemporaryDirectory(prefix="linearsr-") as folder:
        source = None
        if "-" in names:
            draft = Path(folder, "stdin")
            with draft.open("w+b") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
                file.seek(0)
                source = draft.with_suffix(suffix_for(file.read(12)))
            draft.rename(source)
        files = [str(source) if name == "-" else name for name in names]
        yield Pipes(files, Path(folder, "result") if to_stdout else output, source, to_stdout)
