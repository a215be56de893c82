"""The page of a study: a crop of every method's result for each LR image, and the key to their opaque ids."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from linearsr.evaluation.matching import match, plain_stem
from linearsr.evaluation.sources import Pixels, find_images
from linearsr.evaluation.study.score import Candidate, Key
from linearsr.images.photos import read_rgb

_ASSETS = Path(__file__).parent
_T = TypeVar("_T")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Scene(Generic[_T]):
    """An LR image and its results by method: files, or crops (h, w, 3) of one size that participants see."""

    name: str
    lr: _T
    hr: _T | None
    results: dict[str, _T]


def find_scenes(methods: Mapping[str, Path], lr: Path, hr: Path | None = None) -> list[Scene[Path]]:
    """Find the results of each LR image by `match`, sorted by name. Results without an LR image are left out.

    Raises ValueError for fewer than two methods, a folder used twice or without images, two files of one
    stem, or an LR image without a partner.
    """
    if len(methods) < 2:
        raise ValueError("a study compares at least two methods: give NAME=FOLDER for each")
    folders: dict[Path, str] = {}
    for name, folder in methods.items():
        if (other := folders.setdefault(folder.resolve(), name)) != name:
            raise ValueError(f"{other} and {name} are the same folder {folder}")
    inputs = find_images(lr)

    def partners(folder: Path, kind: str) -> list[Path]:
        return [path for path, _ in match(find_images(folder), inputs, kind, "LR image", spare=True)]

    originals = [None] * len(inputs) if hr is None else partners(hr, "HR image")
    results = {name: partners(folder, f"result of {name}") for name, folder in methods.items()}
    scenes = [
        Scene(plain_stem(path), path, originals[i], {name: found[i] for name, found in results.items()})
        for i, path in enumerate(inputs)
    ]
    return sorted(scenes, key=lambda scene: scene.name)


def cut_scene(scene: Scene[Path], crop: int) -> Scene[Pixels]:
    """Read a scene and cut `crop` x `crop` pixels, or less where the results are smaller.

    The crop is where the results differ most: the window with the largest mean difference between the highest
    and the lowest value. The LR image is enlarged to the same size by bicubic interpolation.

    Raises:
        ImageError: a file cannot be read.
        ValueError: results (or HR image) differ in size, or the LR image has another shape; one line.
    """
    results = {name: read_rgb(path) for name, path in scene.results.items()}
    lr, hr = read_rgb(scene.lr), None if scene.hr is None else read_rgb(scene.hr)
    compared = dict(results)
    height, width = next(iter(results.values())).shape[:2]
    scale_y, scale_x = height / lr.shape[0], width / lr.shape[1]
    if hr is not None:
        # `linearsr degrade` crops HR photos to whole LR pixels at the right and lower border
        if 0 <= hr.shape[1] - width < scale_x and 0 <= hr.shape[0] - height < scale_y:
            hr = hr[:height, :width]
        compared["HR"] = hr
    sizes = {name: f"{image.shape[1]}x{image.shape[0]}" for name, image in compared.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{scene.name}: the results are not of one size: {listed}")
    # each side may have been rounded, by less than one LR pixel
    if min(scale_x, scale_y) < 1 or abs(scale_x - scale_y) * min(lr.shape[:2]) > max(scale_x, scale_y):
        raise ValueError(
            f"{scene.name}: results of {width}x{height} do not belong to an LR image of {lr.shape[1]}x{lr.shape[0]}"
        )
    w, h = min(crop, width), min(crop, height)
    spread = np.ptp(np.stack(list(results.values())), axis=0).sum(axis=2, dtype=np.int64)
    sums = np.pad(spread.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    y, x = map(int, np.unravel_index(windows.argmax(), windows.shape))
    box = (x / scale_x, y / scale_y, (x + w) / scale_x, (y + h) / scale_y)
    enlarged = Image.fromarray(lr).resize((w, h), Image.Resampling.BICUBIC, box=box)
    inner = slice(y, y + h), slice(x, x + w)
    cut = {name: image[inner] for name, image in results.items()}
    return Scene(scene.name, np.asarray(enlarged), None if hr is None else hr[inner], cut)


def make_page(
    methods: Sequence[str],
    scenes: Iterable[Scene[Pixels]],
    *,
    title: str,
    questions: Sequence[str],
    contact: str,
    trials: int = 40,
    crop: int = 384,
) -> tuple[str, Key]:
    """Return the HTML page of the scenes, and its key. The same arguments give the same page.

    Args:
        trials: comparisons per participant, each with all questions; at most one for each image and pair of
            methods. One of ten, and at least two, come a second time, mirrored.
        crop: stored in the key.

    Raises:
        ValueError: a method's name appears in the title, a question or the contact; before the first scene.
    """
    for text, method in product((title, contact, *questions), methods):
        if re.search(rf"(?<!\w){re.escape(method)}(?!\w)", text, re.IGNORECASE):
            raise ValueError(f"'{text}' names the method {method}, which participants must not know")
    random = np.random.default_rng(0)
    shown: list[dict[str, str | None]] = []
    results: dict[str, str] = {}
    candidates: dict[str, Candidate] = {}
    pools: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in combinations(methods, 2)}
    for scene in scenes:
        ids = {method: random.bytes(6).hex() for method in methods}
        for method, new in ids.items():
            candidates[new] = Candidate(image=scene.name, method=method)
            results[new] = data_url(scene.results[method])
        for pair, pool in pools.items():
            order = random.permutation([ids[method] for method in pair]).tolist()
            pool.append({"scene": len(shown), "results": order})
        hr = None if scene.hr is None else data_url(scene.hr)
        shown.append({"lr": data_url(scene.lr), "hr": hr})
    trials = min(trials, len(shown) * len(pools))
    repeats = min(max(2, round(trials / 10)), trials // 2)
    asked: dict[str, Any] = {"questions": questions, "trials": trials, "repeats": repeats}
    data = {
        **asked,
        "contact": contact,
        # a random order, so that it says nothing about the methods
        "pools": [list(pools.values())[index] for index in random.permutation(len(pools))],
        "scenes": shown,
        "results": dict(sorted(results.items())),
    }
    study = hashlib.blake2b(json.dumps([title, data]).encode(), digest_size=8).hexdigest()
    key = Key(study=study, title=title, crop=crop, methods=methods, candidates=candidates, **asked)
    texts = {name: (_ASSETS / f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    # a "</script>" in a question must not end the element
    filled = json.dumps({"study": study, **data}).replace("<", "\\u003c")
    parts = {"title": html.escape(title), "style": texts["css"], "script": texts["js"], "data": filled}
    return _PLACE.sub(lambda match: parts[match[1]], texts["html"]), key


def data_url(pixels: Pixels) -> str:
    """Return the image as a data URL of lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", method=4, lossless=True, quality=50)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
