"""Draw crops side by side into one picture: LR (nearest neighbour), any methods, HR.

    python benchmarks/crops.py PHOTO[@X,Y][:PRESET] ... -o crops.png [--methods bicubic 1 0.5 0] [--model DIR]
    python benchmarks/crops.py FOLDER --draw 12 --seed 1 -o gallery.jpg --methods bicubic realesrgan-x4plus own
    python benchmarks/crops.py --pairs LR HR --draw 12 --seed 1 -o pairs.jpg --results OSEDiff=FOLDER

X,Y is the upper left corner of the crop in HR pixels; without it, the crop is the middle of the photo. A
method is "bicubic", a network of peers.py, a number (a fidelity of our model), or "own" (our model at its own
fidelity). `--draw` chooses photos and places at random, so that nobody picks the good ones.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ncnn_peers import PEERS, NcnnPeer, installed_peers
from PIL import Image, ImageDraw
from quality import bicubic

from linearsr import LinearSRPipeline
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.files import list_images
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb

LABEL = 16
Crop = tuple[str, Image.Image]
Method = Callable[[torch.Tensor], Image.Image]


def to_pil(array: np.ndarray | torch.Tensor) -> Image.Image:
    if isinstance(array, torch.Tensor):
        array = array.permute(1, 2, 0).numpy()
    return Image.fromarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))


def open_method(name: str, pipe: LinearSRPipeline) -> tuple[str, Method]:
    """Return the heading of a column, and what makes its pictures from LR (3, h, w) in [0, 1]."""
    if name == "bicubic":
        return name, lambda lr: to_pil(bicubic(lr))
    if name in PEERS:
        peer = NcnnPeer(installed_peers()[name])
        return name, lambda lr: to_pil(peer(lr))
    fidelity = pipe.config.fidelity if name == "own" else float(name)
    return f"ours, fidelity {fidelity:g}", lambda lr: pipe(lr, fidelity=fidelity).images[0]


class Place(NamedTuple):
    """The images of one row."""

    kind: str
    """Origin of the LR image: a preset, or "camera"."""
    lr: np.ndarray
    """(h, w, 3) in [0, 1]."""
    hr: np.ndarray
    """(4h, 4w, 3) in [0, 1]."""
    corner: tuple[int, int] | None
    """Left and top of the crop in HR pixels; None centres it."""
    others: dict[str, Image.Image]
    """Results of other methods for the whole image."""


def of_photo(photo: str, preset: str) -> Place:
    """Return the place that `PHOTO[@X,Y][:PRESET]` names."""
    photo, _, own_preset = photo.partition(":")
    path, _, corner = photo.partition("@")
    left, _, top = corner.partition(",")
    hr = crop_to_multiple(read_rgb(Path(path)), 4)
    return degraded(Path(path), hr, own_preset or preset, (int(left), int(top)) if corner else None)


def degraded(path: Path, hr: np.ndarray, preset: str, corner: tuple[int, int] | None) -> Place:
    return Place(preset, degrade(hr, PRESETS[preset], file_generator(0, path.stem), 4), hr, corner, {})


def drawn_corner(hr: np.ndarray, size: int, rng: random.Random) -> tuple[int, int]:
    height, width = hr.shape[:2]
    return rng.randrange(width - size), rng.randrange(height - size)


def drawn_photos(folder: Path, presets: Sequence[str], size: int, rng: random.Random) -> Iterator[Place]:
    """Yield photos of a folder in random order, cropped at random places, degraded by the presets in turn."""
    paths = list_images(folder)
    for number, path in enumerate(rng.sample(paths, len(paths))):
        hr = crop_to_multiple(read_rgb(path), 4)
        yield degraded(path, hr, presets[number % len(presets)], drawn_corner(hr, size, rng))


def drawn_pairs(
    pairs: Sequence[Path], results: dict[str, Path], size: int, rng: random.Random
) -> Iterator[Place]:
    """Yield pairs that have a result of every other method, in random order, cropped at random places."""
    found = [{path.stem: path for path in list_images(folder)} for folder in [*pairs, *results.values()]]
    stems = sorted(set.intersection(*(set(paths) for paths in found)))
    for stem in rng.sample(stems, len(stems)):
        lr, hr, *others = (crop_to_multiple(read_rgb(paths[stem]), 1) for paths in found)
        corner = drawn_corner(hr, size, rng)
        others_by_name = {name: to_pil(picture) for name, picture in zip(results, others, strict=True)}
        yield Place("camera", lr, hr, corner, others_by_name)


def row(place: Place, methods: dict[str, Method], size: int, zoom: int) -> list[Crop]:
    tensor = torch.from_numpy(np.ascontiguousarray(place.lr)).permute(2, 0, 1)
    full = (place.hr.shape[1], place.hr.shape[0])
    pictures = {
        f"LR ({place.kind})": to_pil(place.lr).resize(full, Image.Resampling.NEAREST),
        **{name: method(tensor) for name, method in methods.items()},
        **place.others,
        "HR": to_pil(place.hr),
    }
    left, top = place.corner or ((full[0] - size) // 2, (full[1] - size) // 2)
    box = (left, top, left + size, top + size)
    return [
        (name, picture.crop(box).resize((size * zoom, size * zoom), Image.Resampling.NEAREST))
        for name, picture in pictures.items()
    ]


def sheet(rows: list[list[Crop]], side: int, columns: int) -> Image.Image:
    """Draw rows of crops of `side` pixels, with `columns` rows beside each other."""
    across, down = len(rows[0]) * side, side + LABEL
    height = -(-len(rows) // columns) * down
    picture = Image.new("RGB", (columns * across + (columns - 1) * LABEL, height), "white")
    draw = ImageDraw.Draw(picture)
    for place, crops in enumerate(rows):
        left, top = place % columns * (across + LABEL), place // columns * down
        for x, (name, crop) in enumerate(crops):
            draw.text((left + x * side + 4, top + 2), name, fill="black")
            picture.paste(crop, (left + x * side, top + LABEL))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*")
    parser.add_argument("--draw", type=int, help="so many, at random from the folder or the pairs")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--pairs", nargs=2, type=Path, metavar=("LR", "HR"), help="draw from these folders")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="NAME=FOLDER", help="of others for the pairs"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["bicubic", "1", "0.5", "0"])
    parser.add_argument(
        "--degrade", nargs="+", default=["mild"], help="presets; drawn photos take them in turn"
    )
    parser.add_argument("--model")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in HR pixels")
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--columns", type=int, default=1, help="crops beside each other")
    args = parser.parse_args()

    pipe = LinearSRPipeline.from_pretrained(args.model)
    methods = dict(open_method(name, pipe) for name in args.methods)
    rng = random.Random(args.seed)
    results = {name: Path(folder) for name, folder in (given.split("=", 1) for given in args.results)}
    if args.pairs:
        places = drawn_pairs(args.pairs, results, args.size, rng)
    elif args.draw:
        places = drawn_photos(Path(args.photos[0]), args.degrade, args.size, rng)
    else:
        places = (of_photo(photo, args.degrade[0]) for photo in args.photos)
    rows = [row(place, methods, args.size, args.zoom) for place in islice(places, args.draw)]
    sheet(rows, args.size * args.zoom, args.columns).save(args.output, quality=92)


if __name__ == "__main__":
    main()
