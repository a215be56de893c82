"""Draw the effect of each degradation preset: LR images of a few crops, with enlarged pixels, beside HR.

python research/degradations.py PHOTO@X,Y PHOTO@X,Y -o docs/figures/degradations.png     # X,Y: the crop's corner
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import file_generator, read_rgb

SCALE, LABEL = 4, 14


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("crops", nargs="+", metavar="PHOTO@X,Y")
    parser.add_argument(
        "--preset", nargs="+", default=["bicubic", "realesrgan", "extreme", "scan", "old-phone"]
    )
    parser.add_argument("--draws", type=int, default=1, help="pictures of each preset")
    parser.add_argument("--size", type=int, default=160, help="side of an HR crop")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    columns = ["HR", *(name for name in args.preset for _ in range(args.draws))]
    step = args.size + 2
    sheet = Image.new("RGB", (step * len(columns), LABEL + step * len(args.crops)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((step * column + 2, 1), name, fill="black")
    for row, crop in enumerate(args.crops):
        photo, _, corner = crop.rpartition("@")
        x, y = map(int, corner.split(","))
        pixels = read_rgb(Path(photo))[y : y + args.size, x : x + args.size]
        hr = np.ascontiguousarray(pixels, dtype=np.float32) / np.float32(255)
        tiles = [pixels]
        for column, name in enumerate(columns[1:]):
            lr = degrade(hr, PRESETS[name], file_generator(column, crop), SCALE)
            tiles.append((lr * 255).round().astype(np.uint8).repeat(SCALE, axis=0).repeat(SCALE, axis=1))
        for column, tile in enumerate(tiles):
            sheet.paste(Image.fromarray(tile), (step * column, LABEL + step * row))
    sheet.save(args.output, optimize=True)


if __name__ == "__main__":
    main()
