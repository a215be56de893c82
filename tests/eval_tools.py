"""Folders of small pictures for the tests of `linearsr eval`."""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from commands import linearsr
from image_tools import smooth_photo


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (32, 24), noise: float = 0.0) -> None:
    """A smooth picture that `seed` decides, with noise that differs from one path to the next."""
    pixels = np.asarray(smooth_photo(seed, size, (4, 3)), dtype=np.float64)
    pixels = pixels + np.random.default_rng(len(str(path)) + seed).normal(0, noise, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(path)


def pairs(folder: Path, count: int = 3) -> tuple[Path, Path]:
    """`pred` with noise and `hr`, image after image of the same stem."""
    for i in range(count):
        picture(folder / f"pred/{i:03}.png", i, noise=5 + i)
        picture(folder / f"hr/{i:03}.png", i)
    return folder / "pred", folder / "hr"


run_eval = partial(linearsr, "eval")
