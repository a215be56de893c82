"""Time of a model in several forms on this machine, beside its own float32 in torch.

    linearsr convert default --to openvino -o FLOAT
    linearsr convert default --to openvino --photos PHOTOS -o INT8
    python benchmarks/backends.py default FLOAT INT8 [--dtype auto float32] [--side 256] [--runs 3] [--threads 2]

All take turns in one process, one step each; a ratio is the median of the ratios within a turn. How it goes with AVX2
only can be tried on a newer processor, whose other instructions torch and OpenVINO can be told to leave:

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/backends.py default FLOAT INT8 --dtype float32
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table
from roofline import seconds_of
from speed import add_arguments, decibels, square
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.allocator import keep_freed_memory


def enlarge(pipe: LinearSRPipeline, lr: Tensor) -> Tensor:
    """An LR image (3, h, w) in [0, 1] in one step."""
    image: Tensor = pipe(lr, num_inference_steps=1, output_type="pt").images[0]
    return image


def ways(models: list[str], dtypes: list[str], lr: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Each model in each type, by name; the first is the first model in float32."""
    named = dict.fromkeys([(models[0], "float32"), *((model, dtype) for model in models for dtype in dtypes)])
    found = {}
    for model, dtype in named:
        folder = None if model == "default" else model
        torch_dtype = None if dtype == "auto" else getattr(torch, dtype)
        pipe = LinearSRPipeline.from_pretrained(folder, torch_dtype=torch_dtype, device="cpu")
        found[f"{Path(model).name}, {pipe.config.backend}, {dtype}"] = partial(enlarge, pipe, lr)
    return found


def compare(found: dict[str, Callable[[], Tensor]], runs: int, cpu_time: bool) -> Table:
    """Seconds per output megapixel and PSNR of each way, beside the first."""
    images = {name: call() for name, call in found.items()}
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(runs):
        for name, call in found.items():
            seconds[name].append(seconds_of(call, cpu_time))
    first = next(iter(found))
    megapixels = images[first][0].numel() / 1e6
    table = Table("model", "s / MP", "over the first", "PSNR against it")
    for name, taken in seconds.items():
        ratio = median(t / f for t, f in zip(taken, seconds[first], strict=True))
        psnr = "" if name == first else f"{decibels(images[name], images[first]):.1f} dB"
        table.add_row(name, f"{median(taken) / megapixels:.2f}", f"{ratio:.2f}", psnr)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="'default', folders or hub ids")
    parser.add_argument("--dtype", nargs="+", default=["auto"], choices=["auto", "float32", "bfloat16"])
    add_arguments(parser)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    lr = square(args.photo, args.side)
    Console(width=100).print(compare(ways(args.models, args.dtype, lr), args.runs, args.cpu_time))


if __name__ == "__main__":
    main()
