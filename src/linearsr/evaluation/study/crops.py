"""What of a scene is shown: one place, cut from every result alike."""

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linearsr.evaluation.crops import window_sums
from linearsr.evaluation.study.folders import Scene
from linearsr.images.photos import read_rgb

Pixels = NDArray[np.uint8]
CropAt = Literal["different", "centre"]


@dataclass(frozen=True)
class Shown:
    """A scene as participants see it: (h, w, 3) each, all of one size."""

    lr: Pixels
    hr: Pixels | None
    results: dict[str, Pixels]


def cut_scene(scene: Scene, crop: int, at: CropAt) -> Shown:
    """Read a scene and cut `crop` x `crop` pixels, or less where the results are smaller.

    The place is the centre, or where the results differ most: the window with the largest mean distance between the
    highest and the lowest result. The LR image is enlarged to the same size by bicubic interpolation.

    Raises:
        ImageError: a file cannot be read.
        ValueError: results (or HR image) of several sizes, or an LR image of another shape, as one line.
    """
    results = {name: read_rgb(path) for name, path in scene.results.items()}
    hr = None if scene.hr is None else read_rgb(scene.hr)
    sizes = {name: (image.shape[1], image.shape[0]) for name, image in results.items()}
    lr = read_rgb(scene.lr)
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
    x, y = (
        _place(list(results.values()), w, h) if at == "different" else ((width - w) // 2, (height - h) // 2)
    )
    box = (x / scale_x, y / scale_y, (x + w) / scale_x, (y + h) / scale_y)
    enlarged = Image.fromarray(lr).resize((w, h), Image.Resampling.BICUBIC, box=box)
    return Shown(
        np.asarray(enlarged),
        None if hr is None else hr[y : y + h, x : x + w],
        {name: image[y : y + h, x : x + w] for name, image in results.items()},
    )


def _place(images: list[Pixels], width: int, height: int) -> tuple[int, int]:
    """(x, y) of the window in which the images differ most."""
    highest, lowest = images[0], images[0]
    for image in images[1:]:
        highest, lowest = np.maximum(highest, image), np.minimum(lowest, image)
    windows = window_sums((highest - lowest).sum(axis=2, dtype=np.int64), height, width)
    y, x = np.unravel_index(np.argmax(windows), windows.shape)
    return int(x), int(y)


def encode_webp(image: Pixels, quality: int | None = None) -> bytes:
    """A WebP file without metadata; without a quality (1 to 100) it is lossless."""
    stream = BytesIO()
    if quality is None:
        Image.fromarray(image).save(stream, "WEBP", lossless=True, quality=50, method=4)
    else:
        Image.fromarray(image).save(stream, "WEBP", quality=quality, method=4)
    return stream.getvalue()
