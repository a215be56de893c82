"""Where results go, and under which name."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from linearsr.cli.console import shown, stop
from linearsr.cli.inputs import Source
from linearsr.images.files import IMAGE_SUFFIXES


class Format(str, Enum):
    """File types that can be written; the value is the suffix."""

    png = "png"
    jpg = "jpg"
    webp = "webp"
    tiff = "tiff"


_FORMAT_OF_SUFFIX = {
    ".png": Format.png,
    ".jpg": Format.jpg,
    ".jpeg": Format.jpg,
    ".webp": Format.webp,
    ".tif": Format.tiff,
    ".tiff": Format.tiff,
}


_UNKNOWN_TYPE = re.compile(r"\.[A-Za-z]\w{1,4}")
"""What is meant as the type of one picture, and hardly as the end of a folder's name."""


@dataclass(frozen=True)
class OutputPlace:
    """One file, a folder, or (neither) beside each input."""

    file: Path | None
    folder: Path | None
    format: Format

    def namer(self, scale: float) -> Callable[[Source, str], Path]:
        """What names the result of a source with a given stem."""

        def name(source: Source, stem: str) -> Path:
            if self.file is not None:
                return self.file
            if self.folder is not None:
                return self.folder / source.relative.parent / f"{stem}.{self.format.value}"
            return source.path.with_name(f"{stem}_x{scale:g}.{self.format.value}")

        return name


def output_place(arguments: Sequence[str], output: Path | None, format: Format | None) -> OutputPlace:
    """What `-o` means: a file for exactly one file with an image's suffix, else a folder.

    Ends the command where it cannot be meant: an unknown type, a file for several inputs, a place that cannot be
    written to.
    """
    if output is None:
        return OutputPlace(None, None, format or Format.png)
    one_file = len(arguments) == 1 and os.path.isfile(arguments[0])
    if one_file and not os.path.isdir(output) and _UNKNOWN_TYPE.fullmatch(output.suffix):
        _check_suffix(output)
    if os.path.isdir(output) or output.suffix.lower() not in IMAGE_SUFFIXES:
        check_folder(output)
        return OutputPlace(None, output, format or Format.png)
    if len(arguments) != 1 or os.path.isdir(arguments[0]):
        stop(f"-o {shown(output)} is the name of one image: several inputs or a folder need a folder there")
    known = _check_suffix(output)
    if format not in (None, known):
        stop(f"-o {shown(output)} is no {format.value}: leave out --format or rename it")
    check_folder(output.parent)
    return OutputPlace(output, None, known)


def _check_suffix(output: Path) -> Format:
    known = _FORMAT_OF_SUFFIX.get(output.suffix.lower())
    if known is None:
        choices = ", ".join(_FORMAT_OF_SUFFIX)
        hint = "" if output.suffix.lower() in IMAGE_SUFFIXES else "; if it is to be a folder, make it first"
        stop(f"-o {shown(output)}: cannot write {output.suffix}: choose {choices}{hint}")
    return known


def check_folder(folder: Path) -> None:
    """End the command if `folder` neither is a folder that can be written to nor can be made."""
    there = Path(os.path.abspath(folder))
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not os.path.isdir(there):
        stop(f"{shown(folder)}: {shown(there)} is a file, not a folder: choose another place with -o")
    if not os.access(there, os.W_OK | os.X_OK):
        stop(f"{shown(folder)}: no permission to write in {shown(there)}: choose another place with -o")
