"""Side-by-side crops as one picture: LR (nearest), bicubic, the model at three fidelity settings, HR.

    python benchmarks/crops.py PHOTO[@X,Y] ... -o crops.png [--degrade mild] [--model DIR]

X,Y is the upper left corner of the crop in HR pixels; the middle of the photo if left out.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from linearsr import LinearSRPipeline
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb

FIDELITIES = (1.0, 0.5, 0.0)
LABEL = 16


def to_pil(array: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(array, 0, 1) * 255).round().astype(np.uint8))


def row(
    pipe: LinearSRPipeline, photo: str, preset: str, size: int, zoom: int
) -> list[tuple[str, Image.Image]]:
    path, _, corner = photo.partition("@")
    hr = crop_to_multiple(read_rgb(Path(path)), 4)
    lr = degrade(hr, PRESETS[preset], file_generator(0, Path(path).stem), 4)
    full = (hr.shape[1], hr.shape[0])
    pictures = {
        f"LR ({preset})": to_pil(lr).resize(full, Image.Resampling.NEAREST),
        "bicubic": to_pil(lr).resize(full, Image.Resampling.BICUBIC),
        **{f"fidelity {f:g}": pipe(lr, fidelity=f).images[0] for f in FIDELITIES},
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--degrade", default="mild")
    parser.add_argument("--model")
    parser.add_argument("--size", type=int, default=128, help="side of a crop in HR pixels")
    parser.add_argument("--zoom", type=int, default=2)
    args = parser.parse_args()

    pipe = LinearSRPipeline.from_pretrained(args.model)
    rows = [row(pipe, photo, args.degrade, args.size, args.zoom) for photo in args.photos]
    side = args.size * args.zoom
    sheet = Image.new("RGB", (len(rows[0]) * side, len(rows) * (side + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, pictures in enumerate(rows):
        for x, (name, picture) in enumerate(pictures):
            draw.text((x * side + 4, y * (side + LABEL) + 2), name, fill="black")
            sheet.paste(picture, (x * side, y * (side + LABEL) + LABEL))
    sheet.save(args.output, quality=92)


if __name__ == "__main__":
    main()
