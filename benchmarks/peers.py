"""Compare quality and speed with methods that people use, on this CPU, in one run.

    python benchmarks/peers.py --hr PHOTOS --degrade mild bicubic realesrgan     # LR made on the fly, seed 0
    python benchmarks/peers.py --pairs LR HR --cache peers/ --methods ours realesrgan-x4plus
    python benchmarks/peers.py --hr PHOTOS --metrics psnr_y lpips dists          # any metric of `linearsr eval`

The methods are bicubic and Lanczos of Pillow, those networks of ncnn_peers.py that are installed, and ours at
its own fidelity and at fidelity 1. Results are rounded to 8 bits. Scores are means over the images; seconds
per output megapixel are medians.

--cache keeps the results of the other methods as PNG and reuses them while the LR image is the same, so that
another model of ours is measured in minutes. Seconds are shown only for methods whose results were all made
in this run.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from ncnn_peers import PEERS, NcnnPeer, installed_peers
from PIL import Image
from quality import bicubic, eight_bit, pair_sets, resized, sharpness
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.cli.console import say
from linearsr.evaluation.evaluate import scorers_of, statistics_of
from linearsr.evaluation.registry import Scorer, choose
from linearsr.images.photos import read_rgb
from linearsr.runtime.allocator import keep_freed_memory
from linearsr.runtime.files import whole_file

Method = Callable[[Tensor], Tensor]
"""Upscales an LR image (3, h, w) in [0, 1] to (3, 4h, 4w)."""

OURS = {"ours": None, "ours-faithful": 1.0}
"""Name -> fidelity; None is the model's own."""
METHODS = ("bicubic", "lanczos", *PEERS, *OURS)
SCORES = ("psnr_y", "ssim_y", "haarpsi", "lpips", "niqe")


class Result(NamedTuple):
    """The result of a method for an LR image."""

    image: Tensor
    """(3, H, W) in [0, 1], on the 8-bit grid."""
    seconds: float | None
    """Seconds per output megapixel; None if it was made in an earlier run."""


def open_methods(names: Sequence[str], model: str | None) -> dict[str, Method]:
    """Open the requested `METHODS` that are installed; name the missing ones on stderr."""
    peers = installed_peers()
    missing = [name for name in names if name in PEERS and name not in peers]
    for name in missing:
        say(f"{name} is not installed: pip install ncnn; pip install --no-deps {PEERS[name].distribution}")
    pipe = cache(partial(LinearSRPipeline.from_pretrained, model))

    def open_method(name: str) -> Method:
        if name in OURS:
            return partial(ours, pipe=pipe(), fidelity=OURS[name])
        if name in PEERS:
            return NcnnPeer(peers[name])
        return bicubic if name == "bicubic" else partial(resized, how=Image.Resampling.LANCZOS)

    return {name: open_method(name) for name in names if name not in missing}


def ours(lr: Tensor, pipe: LinearSRPipeline, fidelity: float | None) -> Tensor:
    image: Tensor = pipe(lr, fidelity=fidelity, output_type="pt").images[0]
    return image


def make(upscale: Method, lr: Tensor) -> Result:
    start = time.perf_counter()
    image = upscale(lr)
    seconds = time.perf_counter() - start
    return Result(eight_bit(image), seconds / (image.shape[-1] * image.shape[-2] / 1e6))


def make_or_read(upscale: Method, lr: Tensor, folder: Path | None, photo: str) -> Result:
    """Read the result for this LR image from `folder`, or make it with `upscale` and save it there.

    Args:
        folder: None neither reads nor saves.
        photo: name of the photo; the file is named after it and a digest of the LR image.
    """
    if folder is None:
        return make(upscale, lr)
    contents = (lr * 255).round().byte().numpy()
    digest = hashlib.blake2b(np.ascontiguousarray(contents).data, digest_size=6).hexdigest()
    file = folder / f"{photo}-{digest}.png"
    if file.exists():
        return Result(torch.tensor(read_rgb(file)).permute(2, 0, 1) / 255, None)
    result = make(upscale, lr)
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (result.image * 255).round().byte().permute(1, 2, 0).numpy()
    with whole_file(file) as part:
        Image.fromarray(pixels).save(part, format="PNG")
    return result


def measure(
    results: Iterable[Result], references: Iterable[Tensor], scorers: Mapping[str, Scorer]
) -> list[str]:
    """Return the cells of a row of the table: mean scores, sharpness, seconds per megapixel."""
    rows: list[list[float | None]] = []
    seconds: list[float] = []
    for result, reference in zip(results, references, strict=True):
        pair = result.image[None].double(), reference[None].double()
        rows.append([*(scored(scorer, *pair) for scorer in scorers.values()), sharpness(*pair)])
        seconds.append(math.nan if result.seconds is None else result.seconds)
    means = [statistics_of(column)["mean"] for column in zip(*rows, strict=True)]
    cells = ["" if value is None else f"{value:.2f}" if value >= 2 else f"{value:.4f}" for value in means]
    return [*cells, "" if any(map(math.isnan, seconds)) else f"{median(seconds):.2f}"]


def scored(scorer: Scorer, image: Tensor, reference: Tensor) -> float | None:
    try:
        return scorer(image, reference)
    except ValueError:  # too small or too flat for this metric
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, help="folder of HR photos, which are degraded")
    parser.add_argument("--degrade", nargs="+", default=["mild", "bicubic"], help="presets for making LR")
    parser.add_argument("--pairs", type=Path, nargs=2, metavar=("LR", "HR"), help="folders of given pairs")
    parser.add_argument(
        "--methods", nargs="+", default=METHODS, help=f"of {', '.join(METHODS)}; all if left out"
    )
    parser.add_argument("--metrics", nargs="+", default=SCORES, help="as of `linearsr eval`")
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    parser.add_argument("--cache", type=Path, help="folder for what the other methods make")
    parser.add_argument("--threads", type=int, help="of the CPU; torch's choice if left out")
    args = parser.parse_args()
    keep_freed_memory()
    if args.hr is None and args.pairs is None:
        parser.error("give --hr, --pairs or both")
    if unknown := set(args.methods) - set(METHODS):
        parser.error(f"unknown method {min(unknown)}: choose from {', '.join(METHODS)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        scorers, unavailable = scorers_of(choose(args.metrics, has_reference=True), torch.device("cpu"))
    except ValueError as error:
        parser.error(str(error))
    for name, reason in unavailable.items():
        say(f"not available: {name}: {reason}")

    methods = open_methods(args.methods, args.model)
    sets = pair_sets(args.hr, args.degrade, args.pairs)
    columns = "input", "method", *scorers, "sharpness", "s / MP"
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name, pairs in sets.items():
        for method, upscale in methods.items():
            kept = None if args.cache is None or method in OURS else args.cache / method
            steps = track(pairs, f"{name}: {method}", console=Console(stderr=True))
            results = (make_or_read(upscale, lr, kept, photo) for photo, lr, _ in steps)
            table.add_row(
                f"{name} ({len(pairs)})", method, *measure(results, (hr for *_, hr in pairs), scorers)
            )
    Console(width=110).print(f"{torch.get_num_threads()} threads")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
