"""What a study shows: for each LR image the result of every method, one place cut from all alike."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from linearsr.evaluation.crops import window_sums
from linearsr.evaluation.sources import Pixels, find_images
from linearsr.images.photos import read_rgb

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


@dataclass(frozen=True)
class Shown:
    """A scene as participants see it: (h, w, 3) each, all of one size."""

    lr: Pixels
    hr: Pixels | None
    results: dict[str, Pixels]


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
        if (other := folders.setdefault(folder.resolve(), name)) != name:
            raise ValueError(f"{other} and {name} are the same folder {folder}")
    inputs = _by_stem(lr)
    originals = {} if hr is None else _partners(inputs, hr, "the HR folder")
    results = {name: _partners(inputs, folder, name) for name, folder in methods.items()}
    return [
        Scene(stem, path, originals.get(stem), {name: found[stem] for name, found in results.items()})
        for stem, path in sorted(inputs.items())
    ]


def _partners(inputs: Mapping[str, Path], folder: Path, owner: str) -> dict[str, Path]:
    found = _by_stem(folder)
    missing = [path.name for stem, path in inputs.items() if stem not in found]
    if missing:
        rest = len(missing) - _SHOWN
        few = ", ".join(missing[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        raise ValueError(
            f"{owner} ({folder}) has nothing for {len(missing)} of {len(inputs)} LR images: {few}: "
            "every folder needs a file of the same stem for each LR image"
        )
    return found


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(folder):
        if (other := found.setdefault(_ENDINGS.sub("", path.stem, count=1), path)) != path:
            raise ValueError(f"{other} and {path} are of one stem: keep one of them")
    return found


def cut_scene(scene: Scene, crop: int, at: Literal["different", "centre"]) -> Shown:
    """Read a scene and cut `crop` x `crop` pixels, or less where the results are smaller.

    The place is the centre, or where the results differ most: the window with the largest mean distance between the
    highest and the lowest result. The LR image is enlarged to the same size by bicubic interpolation.

    Raises:
        ImageError: a file cannot be read.
        ValueError: results (or HR image) of several sizes, or an LR image of another shape, as one line.
    """
    results = {name: read_rgb(path) for name, path in scene.results.items()}
    lr, hr = read_rgb(scene.lr), None if scene.hr is None else read_rgb(scene.hr)
    sizes = {name: (image.shape[1], image.shape[0]) for name, image in results.items()}
    width, height = next(iter(sizes.values()))
    scale_x, scale_y = width / lr.shape[1], height / lr.shape[0]
    if hr is not None:
        # `linearsr degrade` cuts an HR photo to whole LR pixels, at the right and lower border
        if 0 <= hr.shape[1] - width < scale_x and 0 <= hr.shape[0] - height < scale_y:
            hr = hr[:height, :width]
        sizes["HR"] = (hr.shape[1], hr.shape[0])
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {width}x{height}" for name, (width, height) in sizes.items())
        raise ValueError(f"{scene.name}: the results are not of one size: {listed}")
    # each side may have been rounded by less than one LR pixel
    if min(scale_x, scale_y) < 1 or abs(scale_x - scale_y) * min(lr.shape[:2]) > max(scale_x, scale_y):
        raise ValueError(
            f"{scene.name}: results of {width}x{height} do not belong to an LR image of {lr.shape[1]}x{lr.shape[0]}"
        )
    w, h = min(crop, width), min(crop, height)
    x, y = (width - w) // 2, (height - h) // 2
    if at == "different":
        stack = np.stack(list(results.values()))
        windows = window_sums(np.ptp(stack, axis=0).sum(axis=2, dtype=np.int64), h, w)
        y, x = map(int, np.unravel_index(np.argmax(windows), windows.shape))
    box = (x / scale_x, y / scale_y, (x + w) / scale_x, (y + h) / scale_y)
    enlarged = Image.fromarray(lr).resize((w, h), Image.Resampling.BICUBIC, box=box)
    inner = slice(y, y + h), slice(x, x + w)
    cut = {name: image[inner] for name, image in results.items()}
    return Shown(np.asarray(enlarged), None if hr is None else hr[inner], cut)
