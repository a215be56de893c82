"""Compare the speed of each part of a model with the peak multiplication rate of this machine.

    python benchmarks/roofline.py [--model DIR] [--dtype bfloat16] [--side 256] [--threads 2]

A peak is the best of many runs of a product of 512x512 matrices, or of a 3x3 convolution in 8 bits, in the
cache.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import nn

from linearsr import LinearSRPipeline
from linearsr.evaluation.benchmark import count_parts, evaluation_inputs
from linearsr.models import int8
from linearsr.models.transformer import LinearSRTransformer
from linearsr.runtime.allocator import keep_freed_memory

_SIDE = 512
_CPU = torch.device("cpu")


class PartSpeed(NamedTuple):
    """The speed of one part of a model on one image."""

    part: str
    macs: int
    seconds: float

    @property
    def gmacs_per_second(self) -> float:
        return self.macs / self.seconds / 1e9


def seconds_of(call: Callable[[], object], cpu_time: bool = False) -> float:
    """Return the seconds of one call. CPU time per thread leaves out what other programs take."""
    clock = time.process_time if cpu_time else time.perf_counter
    start = clock()
    call()
    return (clock() - start) / (torch.get_num_threads() if cpu_time else 1)


def best_of(call: Callable[[], object], runs: int, cpu_time: bool) -> float:
    call()
    return min(seconds_of(call, cpu_time) for _ in range(runs))


@torch.inference_mode()
def peaks(cpu_time: bool) -> dict[str, float]:
    """Return the peaks by data type, in 10^9 multiply-accumulates per second."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, _SIDE, _SIDE, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        found[name] = _SIDE**3 / best_of(lambda a=a, b=b: a @ b, 50, cpu_time) / 1e9  # type: ignore[misc]
    if int8.supported():
        conv = int8.Int8Convolution(nn.Conv2d(64, 64, 3, padding=1), torch.ones(64))
        x = torch.randint(256, (1, 64, 32, 256), dtype=torch.uint8)
        macs = 32 * 256 * 64 * 64 * 9
        found["int8"] = macs / best_of(lambda: conv(x, (1, 1)), 50, cpu_time) / 1e9
    return found


@torch.inference_mode()
def parts(
    pipe: LinearSRPipeline, counted: LinearSRPipeline, lr: torch.Tensor, runs: int, cpu_time: bool
) -> list[PartSpeed]:
    """Time stem, trunk, one evaluation of the transformer, and codec on an LR image (1, 3, h, w) in [-1, 1].

    Args:
        pipe: the model to time.
        counted: the same model in floating point, so that its MACs can be counted.
    """
    macs = {part.part: part.macs for part in count_parts(counted, *lr.shape[-2:])}
    calls: dict[str, Callable[[], object]] = {"lr_stem": lambda: pipe.lr_stem(lr)}
    if (trunk := pipe.trunk) is not None:
        calls["trunk"] = lambda: trunk(lr)
    if pipe.transformer is not None:
        condition = pipe.lr_stem(lr)
        network = next(m for m in pipe.transformer.modules() if isinstance(m, LinearSRTransformer))
        grid = condition.features.shape[-2:]
        inputs = evaluation_inputs(network.config, *grid, None, _CPU, pipe.dtype)
        inputs["lr_features"] = condition.features if network.config.lr_channels else None
        latent = torch.randn(1, pipe.codec.latent_channels, *grid)
        calls["transformer"] = lambda: network(**inputs)
        calls["codec"] = lambda: pipe.codec.decode(latent, condition)
    return [PartSpeed(name, macs[name], best_of(call, runs, cpu_time)) for name, call in calls.items()]


def table_of(found: list[PartSpeed], peak: dict[str, float]) -> Table:
    table = Table("part", "GMAC", "seconds", "GMAC/s", *(f"of {name} peak" for name in peak))
    for part in found:
        rate = part.gmacs_per_second
        shares = [f"{rate / most:.0%}" for most in peak.values()]
        table.add_row(part.part, f"{part.macs / 1e9:.1f}", f"{part.seconds:.3f}", f"{rate:.0f}", *shares)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="the model's own choice if left out")
    parser.add_argument("--side", type=int, default=256, help="of the LR image")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine, with --threads 1")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    pipe = LinearSRPipeline.from_pretrained(args.model, torch_dtype=dtype, device="cpu")
    counted = LinearSRPipeline.from_pretrained(args.model, torch_dtype=torch.float32, device="cpu")
    # a smooth image, as photos are
    lr = F.interpolate(torch.rand(1, 3, 8, 8) - 0.5, (args.side, args.side), mode="bicubic")
    peak = peaks(args.cpu_time)
    console = Console(width=100)
    console.print(f"{args.threads} threads; " + ", ".join(f"{k} {v:.0f} GMAC/s" for k, v in peak.items()))
    console.print(table_of(parts(pipe, counted, lr, args.runs, args.cpu_time), peak))


if __name__ == "__main__":
    main()
