"""Test sets of the literature by name: how they lie on disk, whether they are complete, what was published on them.

Nothing is downloaded. A set is a folder with its LR images in `LR` and, where there are any, its HR images in `HR`; the
folder names that the authors use are understood too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from linearsr.evaluation.matching import MatchError, check_sizes, match, unique_stems
from linearsr.images.files import list_images
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_size

_HR_NAMES = ("hr", "test_hr", "gt")
_LR_NAMES = ("lr", "test_lr", "lq")
_SHOWN = 20


@dataclass(frozen=True)
class Dataset:
    """A test set."""

    title: str
    images: int
    lr_side: int
    """Pixels of each side of an LR image; HR images, where there are any, are four times as large."""
    has_hr: bool
    address: str
    """Where its authors, or those of the protocol, publish it."""
    paper: str
    published: Sequence[Mapping[str, Any]] = ()
    """Lines of published tables: `method`, `values` by our names of the metrics, `source`."""


@dataclass
class Layout:
    """What was found of a set on disk."""

    lr: Path | None = None
    hr: Path | None = None
    problems: list[str] = field(default_factory=list)
    """What is missing or wrong, one line each; empty: the set is complete."""


_SETS = files(__package__).joinpath("datasets.json").read_text(encoding="utf-8")
DATASETS = {name: Dataset(**found) for name, found in json.loads(_SETS).items()}
"""By the name for `--dataset`."""


def check(dataset: Dataset, root: Path) -> Layout:
    """Look for the set's folders, count its images, and compare names and sizes, by the headers of the files."""
    layout = Layout()
    if not root.is_dir():
        layout.problems.append(f"{root}: is not a folder")
        return layout
    layout.lr = _child(root, _LR_NAMES)
    _check_folder(layout, layout.lr, root / "LR", dataset.images, dataset.lr_side)
    if not dataset.has_hr:
        return layout
    layout.hr = _child(root, _HR_NAMES)
    _check_folder(layout, layout.hr, root / "HR", dataset.images, dataset.lr_side * 4)
    if layout.lr is not None and layout.hr is not None and not layout.problems:
        try:
            check_sizes(match(list_images(layout.lr), list_images(layout.hr), "LR image"), 4)
        except MatchError as error:
            layout.problems += str(error).splitlines()
    return layout


def _child(root: Path, names: Sequence[str]) -> Path | None:
    folders = {child.name.lower(): child for child in sorted(root.iterdir()) if child.is_dir()}
    return next((folders[name] for name in names if name in folders), None)


def _check_folder(layout: Layout, folder: Path | None, expected: Path, images: int, side: int) -> None:
    if folder is None:
        layout.problems.append(f"{expected}: is missing: {images} images of {side}x{side}")
        return
    paths = list_images(folder)
    if len(paths) != images:
        layout.problems.append(f"{folder}: {len(paths)} images, where the set has {images}")
    try:
        unique_stems(paths)
    except MatchError as error:
        layout.problems += str(error).splitlines()
    wrong = [problem for path in paths if (problem := _size_problem(path, side))]
    layout.problems += wrong[:_SHOWN]
    if len(wrong) > _SHOWN:
        layout.problems.append(f"{folder}: and {len(wrong) - _SHOWN} more")


def _size_problem(path: Path, side: int) -> str | None:
    try:
        height, width = read_size(path, str(path))
    except ImageError as error:
        return str(error)
    return None if (height, width) == (side, side) else f"{path}: is {width}x{height}, not {side}x{side}"
