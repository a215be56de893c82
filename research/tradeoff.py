"""Measure the effect of steps and fidelity: PSNR-Y against NIQE for each fidelity, and NIQE against seconds.

    python research/tradeoff.py --hr PHOTOS --degrade mild -o tradeoff.png

Results between fidelity 0 and 1 are interpolated from those two: the residual codec is affine, so a straight
line between latents is one between images.
"""

import argparse
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median

import matplotlib
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.models.codec import ResidualCodec
from linearsr.runtime.allocator import keep_freed_memory

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import degraded_pairs, eight_bit, niqe_or_nan

Figures = tuple[float, float, float]
"""PSNR-Y in dB, SSIM-Y, NIQE."""


def timed(pipe: LinearSRPipeline, lr: Tensor, steps: int, fidelity: float) -> tuple[Tensor, float]:
    """Return a result (3, H, W), and its CPU seconds per megapixel."""
    started = time.process_time()
    image: Tensor = pipe(lr, num_inference_steps=steps, fidelity=fidelity, output_type="pt").images[0]
    return image, (time.process_time() - started) / (image.shape[1] * image.shape[2] / 1e6)


def figures(image: Tensor, hr: Tensor) -> Figures:
    image = eight_bit(image)[None]
    return psnr_y(image, hr[None]), ssim_y(image, hr[None]), niqe_or_nan(image)


def mean(rows: list[Figures]) -> Figures:
    psnr, ssim, niqe = zip(*rows, strict=True)
    judged = [value for value in niqe if not math.isnan(value)]
    return fmean(psnr), fmean(ssim), fmean(judged)


def draw(
    results: dict[int, list[Figures]], seconds: dict[int, float], fidelities: list[float], file: Path
) -> None:
    figure, (curve, cost) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for steps, rows in results.items():
        curve.plot(
            [r[2] for r in rows],
            [r[0] for r in rows],
            "o-",
            markersize=4,
            label=f"{steps} step{'s' * (steps > 1)}",
        )
    first = next(iter(results.values()))
    for fidelity, (psnr, _, niqe) in zip(fidelities, first, strict=True):
        curve.annotate(f"{fidelity:g}", (niqe, psnr), xytext=(5, -10), textcoords="offset points", fontsize=8)
    curve.set(
        xlabel="NIQE (lower: more natural detail)", ylabel="PSNR-Y (dB)", title="the fidelity control, 0 to 1"
    )
    curve.legend()
    cost.plot(list(seconds.values()), [rows[0][2] for rows in results.values()], "o-", color="#1f4e79")
    for steps, rows in results.items():
        cost.annotate(
            f"{steps}", (seconds[steps], rows[0][2]), xytext=(4, 4), textcoords="offset points", fontsize=8
        )
    cost.set(
        xlabel="seconds of the processor for a megapixel",
        ylabel="NIQE at fidelity 0",
        title="number of steps",
    )
    for axis in (curve, cost):
        axis.grid(visible=True, linewidth=0.3)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--degrade", default="mild", help="preset for making LR")
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--fidelity", type=float, nargs="+", default=[0, 0.2, 0.4, 0.6, 0.8, 1])
    parser.add_argument("-o", "--output", type=Path, help="also draw a picture")
    args = parser.parse_args()
    keep_freed_memory()

    pipe = LinearSRPipeline.from_pretrained(args.model)
    if not isinstance(pipe.codec, ResidualCodec):
        parser.error("--model: a model with a residual codec is needed")
    pairs = list(degraded_pairs(args.hr, args.degrade))
    results: dict[int, list[Figures]] = {}
    seconds: dict[int, float] = {}
    for steps in args.steps:
        rows: dict[float, list[Figures]] = defaultdict(list)
        times = []
        for _, lr, hr in track(pairs, f"{steps} steps", console=Console(stderr=True)):
            sample, taken = timed(pipe, lr, steps, 0)
            whole, _ = timed(pipe, lr, steps, 1)
            times.append(taken)
            for fidelity in args.fidelity:
                rows[fidelity].append(figures(torch.lerp(sample, whole, fidelity), hr))
        results[steps] = [mean(rows[fidelity]) for fidelity in args.fidelity]
        seconds[steps] = median(times)

    table = Table(
        "steps", "fidelity", "PSNR-Y", "SSIM-Y", "NIQE", "CPU s/MP", box=SIMPLE_HEAD, pad_edge=False
    )
    for steps, found in results.items():
        for fidelity, (psnr, ssim, niqe) in zip(args.fidelity, found, strict=True):
            table.add_row(
                f"{steps}",
                f"{fidelity:g}",
                f"{psnr:.2f}",
                f"{ssim:.3f}",
                f"{niqe:.2f}",
                f"{seconds[steps]:.2f}",
            )
    Console(width=80).print(table)
    if args.output is not None:
        draw(results, seconds, args.fidelity, args.output)


if __name__ == "__main__":
    main()
