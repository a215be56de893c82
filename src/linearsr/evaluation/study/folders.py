"""The files of a study: for each LR image the result of every method."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr.images.files import list_images

_ENDINGS = re.compile(r"([_-](LR|HR|SR|GT|LQ|HQ)\d*)?(_x\d+(\.\d+)?)?$", re.IGNORECASE)
_SHOWN = 5


@dataclass(frozen=True)
class Scene:
    """One LR image and what belongs to it."""

    name: str
    lr: Path
    hr: Path | None
    results: dict[str, Path]
    """By method."""


def find_scenes(methods: Mapping[str, Path], lr: Path, hr: Path | None = None) -> list[Scene]:
    """All LR images, sorted by name, each with its results.

    Files belong together by their stem, without endings as `_x4`, `_LR4` and `_HR`. Results without an LR image are
    left out, so that a folder of a few LR images makes a study of a few.

    Args:
        methods: folder of results by method, searched to the bottom, as the others.

    Raises:
        ValueError: fewer than two methods, a folder used twice or without images, two files of one stem, or an LR image
            without a partner; one line that names the files.
    """
    if len(methods) < 2:
        raise ValueError("a study compares at least two methods: give NAME=FOLDER for each")
    folders: dict[Path, str] = {}
    for name, folder in methods.items():
        other = folders.setdefault(folder.resolve(), name)
        if other != name:
            raise ValueError(f"{other} and {name} are the same folder {folder}")
    inputs = _by_stem(lr)
    originals = None if hr is None else _partners(inputs, hr, "the HR folder")
    results = {name: _partners(inputs, folder, name) for name, folder in methods.items()}
    return [
        Scene(
            stem,
            path,
            None if originals is None else originals[stem],
            {name: found[stem] for name, found in results.items()},
        )
        for stem, path in sorted(inputs.items())
    ]


def _partners(inputs: Mapping[str, Path], folder: Path, owner: str) -> dict[str, Path]:
    found = _by_stem(folder)
    missing = [path for stem, path in inputs.items() if stem not in found]
    if missing:
        raise ValueError(
            f"{owner} ({folder}) has nothing for {len(missing)} of {len(inputs)} LR images: {_few(missing)}: "
            "every folder needs a file of the same stem for each LR image"
        )
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give a folder of images")
    found: dict[str, Path] = {}
    for path in list_images(folder):
        other = found.setdefault(_ENDINGS.sub("", path.stem, count=1), path)
        if other != path:
            raise ValueError(f"{other} and {path} are of one stem: keep one of them")
    if not found:
        raise ValueError(f"{folder}: no images in this folder")
    return found


def _few(paths: Sequence[Path]) -> str:
    rest = len(paths) - _SHOWN
    return ", ".join(path.name for path in paths[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
