"""Compare pictures that are not photos (text, charts, sprites) with Lanczos, and alpha with bicubic.

    python benchmarks/graphics.py [-o FOLDER]

The pictures, and alpha with hard edges, are those of `tests/graphics.py`. "Drawing" is how much the model
takes a picture for a drawing instead of a photo, 0 to 1.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from linearsr import LinearSRPipeline
from linearsr.images.convert import lr_tensor, picture_from_array
from linearsr.images.graphics import likeness_to_drawing

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from graphics import alphas, graphics


def rmse(image: Image.Image, hr: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(image, dtype=float) - hr) ** 2)))


def psnr(image: Image.Image, hr: np.ndarray) -> float:
    return float(20 * np.log10(255 / max(rmse(image, hr), 1e-3)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    parser.add_argument("-o", type=Path, help="folder for the results")
    args = parser.parse_args()
    pipe = LinearSRPipeline.from_pretrained(args.model)
    pictures, shapes = (Table(box=SIMPLE_HEAD) for _ in range(2))
    for title in ("picture", "drawing", "Lanczos, dB", "model, dB"):
        pictures.add_column(title)
    for title in ("alpha", "bicubic, RMSE", "model, RMSE"):
        shapes.add_column(title)
    results = {}
    for name, (lr, hr) in graphics().items():
        seen = lr_tensor(picture_from_array(lr))
        drawing = likeness_to_drawing(lambda top, bottom, seen=seen: seen[:, :, top:bottom], lr.shape[:2])
        results[name] = pipe(lr).images[0]
        lanczos = Image.fromarray(lr).resize(hr.shape[1::-1], Image.Resampling.LANCZOS)
        pictures.add_row(name, f"{drawing:.2f}", f"{psnr(lanczos, hr):.2f}", f"{psnr(results[name], hr):.2f}")
    for name, (lr, hr) in alphas().items():
        results[name] = pipe(np.dstack([np.full_like(lr, 200), lr])).images[0].getchannel("A")
        bicubic = Image.fromarray(lr).resize(hr.shape[1::-1], Image.Resampling.BICUBIC)
        shapes.add_row(name, f"{rmse(bicubic, hr):.1f}", f"{rmse(results[name], hr):.1f}")
    if args.o:
        args.o.mkdir(parents=True, exist_ok=True)
        for name, image in results.items():
            image.save(args.o / f"{name.replace(', ', '-').replace(' ', '-')}.png")
    Console().print(pictures, shapes)


if __name__ == "__main__":
    main()
