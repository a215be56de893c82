"""Measure the parts of the `mild` degradation: the gain over bicubic at fidelity 1 with parts left out.

python research/degradation_parts.py --hr PHOTOS
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch
from rich.console import Console
from rich.table import Table

from linearsr import LinearSRPipeline
from linearsr.evaluation.metrics import psnr_y
from linearsr.images.degradation import PRESETS, Degradation, degrade
from linearsr.images.files import list_images
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import bicubic, eight_bit

NO_BLUR = {"blur_prob": 0.0}
NO_NOISE = {"noise_range": (0.0, 0.0), "poisson_scale": (0.0, 0.0)}
NO_JPEG = {"jpeg_range": (100, 100)}
VARIANTS = {
    "mild": {},
    "without blur": NO_BLUR,
    "without noise": NO_NOISE,
    "without JPEG": NO_JPEG,
    "without noise and JPEG": {**NO_NOISE, **NO_JPEG},
    "resize alone": {**NO_BLUR, **NO_NOISE, **NO_JPEG},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    args = parser.parse_args()
    pipe = LinearSRPipeline.from_pretrained(args.model)
    photos = [(path.stem, crop_to_multiple(read_rgb(path), 4)) for path in list_images(args.hr)]
    mild = PRESETS["mild"].orders[0]
    degradations = {name: Degradation(orders=(replace(mild, **parts),)) for name, parts in VARIANTS.items()}
    degradations["resize alone, antialiased (`bicubic`)"] = PRESETS["bicubic"]

    table = Table("degradation", "bicubic", "fidelity 1", "gain")
    for name, degradation in degradations.items():
        before, after = [], []
        for stem, hr in photos:
            pixels = degrade(hr, degradation, file_generator(0, stem), 4)
            lr, reference = (torch.from_numpy(image).permute(2, 0, 1) for image in (pixels, hr))
            result = pipe(lr, fidelity=1.0, output_type="pt").images[0]
            before.append(psnr_y(bicubic(lr)[None], reference[None]))
            after.append(psnr_y(eight_bit(result)[None], reference[None]))
        base, ours = fmean(before), fmean(after)
        table.add_row(name, f"{base:.2f}", f"{ours:.2f}", f"{ours - base:+.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
