"""Test sets of the literature by name: how they lie on disk, whether they are complete, what was published on them.

Nothing is downloaded. A set is a folder with its LR images in `LR` and, where there are any, its HR images in `HR`; the
folder names that the authors use are understood too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linearsr.evaluation.matching import MatchError, check_sizes, match, unique_stems
from linearsr.images.files import list_images
from linearsr.images.io import ImageError, read_size

_HR_NAMES = ("hr", "test_hr", "gt")
_LR_NAMES = ("lr", "test_lr", "lq")
_SHOWN = 20
_STABLESR = "https://huggingface.co/datasets/Iceclear/StableSR-TestSets"


@dataclass(frozen=True)
class Published:
    """A line of a published table, by our names of the metrics."""

    method: str
    values: Mapping[str, float]
    source: str


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
    published: Sequence[Published] = ()


@dataclass
class Layout:
    """What was found of a set on disk."""

    lr: Path | None = None
    hr: Path | None = None
    problems: list[str] = field(default_factory=list)
    """What is missing or wrong, one line each; empty: the set is complete."""


_LINEARSR = "LinearSR, arXiv 2510.08771; variants of the metrics not stated"
_OSEDIFF = "OSEDiff, its repository's log: pyiqa, Y of YCbCr 16-235, no border, maniqa-pipal"


def _table(methods: Sequence[str], columns: Mapping[str, Sequence[float | None]]) -> tuple[Published, ...]:
    """A table of the LinearSR paper, column by column."""
    rows = (
        {metric: value for metric, values in columns.items() if (value := values[row]) is not None}
        for row in range(len(methods))
    )
    return tuple(Published(method, row, _LINEARSR) for method, row in zip(methods, rows, strict=True))


_METHODS = ("SeeSR", "SUPIR", "DreamClear", "OSEDiff", "AdcSR", "InvSR", "TSD-SR", "LinearSR")

DATASETS: dict[str, Dataset] = {
    "realsr": Dataset(
        "RealSR, 100 centre crops",
        images=100,
        lr_side=128,
        has_hr=True,
        address=f"{_STABLESR} (crops); https://github.com/csjcai/RealSR (whole images)",
        paper="Cai et al., ICCV 2019; crops by Wang et al. (StableSR), IJCV 2024",
        published=(
            Published(
                "OSEDiff",
                {
                    "psnr_y": 25.1511,
                    "ssim_y": 0.7341,
                    "lpips": 0.2921,
                    "dists": 0.2128,
                    "clipiqa": 0.6693,
                    "niqe": 5.6476,
                    "musiq": 69.0896,
                    "maniqa": 0.6331,
                    "fid": 123.49,
                },
                _OSEDIFF,
            ),
        ),
    ),
    "drealsr": Dataset(
        "DRealSR, 93 centre crops",
        images=93,
        lr_side=128,
        has_hr=True,
        address=(
            f"{_STABLESR} (crops); "
            "https://github.com/xiezw5/Component-Divide-and-Conquer-for-Real-World-Image-Super-Resolution"
        ),
        paper="Wei et al., ECCV 2020; crops by Wang et al. (StableSR), IJCV 2024",
        published=_table(
            _METHODS,
            {
                "psnr_y": (26.212, None, None, None, None, None, None, 25.235),
                "maniqa": (0.495, 0.403, 0.350, 0.475, 0.495, 0.461, 0.469, 0.510),
                "musiq": (67.429, 63.125, 57.164, 68.051, 69.025, 68.046, 68.495, 69.073),
            },
        ),
    ),
    "reallq250": Dataset(
        "RealLQ250, 250 photos without HR images",
        images=250,
        lr_side=256,
        has_hr=False,
        address="https://github.com/shallowdream204/DreamClear",
        paper="Ai et al. (DreamClear), NeurIPS 2024",
        published=_table(
            _METHODS,
            {
                "maniqa": (0.502, 0.393, 0.450, 0.433, 0.450, 0.421, 0.470, 0.515),
                "musiq": (70.912, 65.476, 67.126, 70.013, 70.534, 66.831, 71.505, 71.914),
                "clipiqa": (0.703, 0.574, 0.688, 0.692, 0.677, 0.704, None, 0.720),
            },
        ),
    ),
    "div2k-val": Dataset(
        "DIV2K validation, 3,000 synthetic crops",
        images=3000,
        lr_side=128,
        has_hr=True,
        address=f"{_STABLESR} (crops); https://data.vision.ee.ethz.ch/cvl/DIV2K/ (whole images)",
        paper="Agustsson and Timofte, CVPRW 2017; crops by Wang et al. (StableSR), IJCV 2024",
    ),
}
"""By the name for `--dataset`."""


def check(dataset: Dataset, root: Path) -> Layout:
    """Look for the set's folders, count its images, and compare names and sizes, by the headers of the files."""
    layout = Layout()
    if not root.is_dir():
        layout.problems.append(f"{root}: is no folder")
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
