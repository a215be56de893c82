"""Quality and speed side by side with what people use, on this CPU, in one run.

    python benchmarks/peers.py --hr PHOTOS --degrade mild bicubic realesrgan

Bicubic and Lanczos by Pillow; Real-ESRGAN through ncnn where it is installed (see ncnn_peers.py); ours at its default
setting and at fidelity 1. Means over the photos, LR made with seed 0; seconds per output megapixel are medians.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from ncnn_peers import installed_peers
from PIL import Image
from quality import Score, bicubic, degraded_pairs, eight_bit, given_pairs, mean, resized, score
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline

Method = Callable[[Tensor], Tensor]
"""LR image (3, h, w) in [0, 1] -> (3, 4h, 4w)."""


def ours(lr: Tensor, pipe: LinearSRPipeline, fidelity: float | None) -> Tensor:
    image: Tensor = pipe(lr, fidelity=fidelity, output_type="pt").images[0]
    return image


def methods(pipe: LinearSRPipeline) -> dict[str, Method]:
    return {
        "bicubic": bicubic,
        "Lanczos": partial(resized, how=Image.Resampling.LANCZOS),
        **installed_peers(),
        "ours, default": partial(ours, pipe=pipe, fidelity=None),
        "ours, fidelity 1": partial(ours, pipe=pipe, fidelity=1.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--lr", type=Path, help="folder of LR partners; without it LR is made from HR")
    parser.add_argument("--degrade", nargs="+", default=["mild", "bicubic"], help="presets for making LR")
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    args = parser.parse_args()

    found = methods(LinearSRPipeline.from_pretrained(args.model))
    sets = (
        {"pairs": list(given_pairs(args.lr, args.hr))}
        if args.lr
        else {preset: list(degraded_pairs(args.hr, preset)) for preset in args.degrade}
    )
    columns = "input", "method", "PSNR-Y", "SSIM-Y", "sharpness", "NIQE", "s / MP"
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name, pairs in sets.items():
        for method, upscale in found.items():
            upscale(pairs[0][1])  # warm-up
            scores: list[Score] = []
            seconds: list[float] = []
            for _, lr, hr in track(pairs, f"{name}: {method}", console=Console(stderr=True)):
                start = time.perf_counter()
                image = upscale(lr)
                seconds.append((time.perf_counter() - start) / (image.shape[-1] * image.shape[-2] / 1e6))
                scores.append(score(eight_bit(image)[None], hr[None]))
            m = mean(scores)
            figures = f"{m.psnr:.2f}", f"{m.ssim:.3f}", f"{m.sharpness:.2f}", f"{m.niqe:.2f}"
            table.add_row(f"{name} ({len(pairs)})", method, *figures, f"{median(seconds):.2f}")
    Console(width=100).print(f"{torch.get_num_threads()} threads")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
