"""Side-by-side crops as one picture: LR (nearest), any methods, HR.

    python benchmarks/crops.py PHOTO[@X,Y][:PRESET] ... -o crops.png [--methods bicubic 1 0.5 0] [--model DIR]
    python benchmarks/crops.py PHOTO@X,Y ... -o gallery.png --methods bicubic realesrgan-x4plus own --columns 2

X,Y is the upper left corner of the crop in HR pixels; the middle of the photo if left out. A method is "bicubic", one
of the networks of peers.py, a number, which is a fidelity of ours, or "own", the fidelity of the model.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ncnn_peers import PEERS, NcnnPeer, installed_peers
from PIL import Image, ImageDraw
from quality import bicubic

from linearsr import LinearSRPipeline
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb

LABEL = 16
Crop = tuple[str, Image.Image]
Method = Callable[[torch.Tensor], Image.Image]


def to_pil(array: np.ndarray | torch.Tensor) -> Image.Image:
    if isinstance(array, torch.Tensor):
        array = array.permute(1, 2, 0).numpy()
    return Image.fromarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))


def open_method(name: str, pipe: LinearSRPipeline) -> tuple[str, Method]:
    """The heading of a column, and what makes its pictures from LR (3, h, w) in [0, 1]."""
    if name == "bicubic":
        return name, lambda lr: to_pil(bicubic(lr))
    if name in PEERS:
        peer = NcnnPeer(installed_peers()[name])
        return name, lambda lr: to_pil(peer(lr))
    fidelity = pipe.config.fidelity if name == "own" else float(name)
    return f"ours, fidelity {fidelity:g}", lambda lr: pipe(lr, fidelity=fidelity).images[0]


def row(photo: str, methods: dict[str, Method], preset: str, size: int, zoom: int) -> list[Crop]:
    photo, _, own_preset = photo.partition(":")
    path, _, corner = photo.partition("@")
    preset = own_preset or preset
    hr = crop_to_multiple(read_rgb(Path(path)), 4)
    lr = degrade(hr, PRESETS[preset], file_generator(0, Path(path).stem), 4)
    tensor = torch.from_numpy(np.ascontiguousarray(lr)).permute(2, 0, 1)
    full = (hr.shape[1], hr.shape[0])
    pictures = {
        f"LR ({preset})": to_pil(lr).resize(full, Image.Resampling.NEAREST),
        **{name: method(tensor) for name, method in methods.items()},
        "HR": to_pil(hr),
    }
    left, top = (
        (int(v) for v in corner.split(",")) if corner else ((full[0] - size) // 2, (full[1] - size) // 2)
    )
    box = (left, top, left + size, top + size)
    return [
        (name, picture.crop(box).resize((size * zoom, size * zoom), Image.Resampling.NEAREST))
        for name, picture in pictures.items()
    ]


def sheet(rows: list[list[Crop]], side: int, columns: int) -> Image.Image:
    """Rows of crops of `side` pixels, in so many columns of rows."""
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
    parser.add_argument("photos", nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["bicubic", "1", "0.5", "0"])
    parser.add_argument("--degrade", default="mild")
    parser.add_argument("--model")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in HR pixels")
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--columns", type=int, default=1, help="crops beside each other")
    args = parser.parse_args()

    pipe = LinearSRPipeline.from_pretrained(args.model)
    methods = dict(open_method(name, pipe) for name in args.methods)
    rows = [row(photo, methods, args.degrade, args.size, args.zoom) for photo in args.photos]
    sheet(rows, args.size * args.zoom, args.columns).save(args.output, quality=92)


if __name__ == "__main__":
    main()
