"""Folders of small pictures for the tests of `linearsr eval`, and photos for those of its metrics."""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from commands import linearsr
from image_tools import smooth_photo

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
QUICK = ("--metrics", "psnr_rgb,ssim_y")


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


def table(folder: Path) -> list[dict[str, str]]:
    """What an evaluation has written down of each image."""
    with (folder / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def barred(image):
    image[:130] = image[-130:] = 0
    return image


def white(image):
    image[:400, 200:] = 255
    return image


def photo(name):
    if name in ("mosaic", "odd"):
        photos = [photo(f"train/{path.name}") for path in sorted((PHOTOS / "train").glob("*.jpg"))]
        whole = np.vstack([np.hstack(photos[i : i + 4]) for i in range(0, 16, 4)])
        return whole[:333, :701] if name == "odd" else whole
    if name in CHANGED:
        return CHANGED[name](photo("mosaic"))
    path = {"bridge": "train/bridge.jpg", "forest": "val/forest.jpg"}.get(name, name)
    return np.asarray(Image.open(PHOTOS / path).convert("RGB"))


def blurred(image):
    picture = Image.fromarray(image)
    small = picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC))


CHANGED = {
    "bicubic": blurred,
    "black bars": barred,
    "white sky": white,
    "odd size": lambda image: image[:193, :701],
}


def noisy(image):
    noise = np.random.default_rng(0).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def pair(name, kind):
    """(result, reference), each (H, W, 3) in whole numbers."""
    reference = photo(name)
    return (blurred if kind == "blurred" else noisy)(reference), reference


def tensors(images):
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255 for image in images]
