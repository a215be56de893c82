"""Measure `linearsr batch` with several workers against as many `linearsr upscale` that run at the same time.

    python benchmarks/bulk.py [--images 500] [--side 48] [--workers 2]

Both process the same images, cut from examples/photos, with one thread per process. Rates are in images per
second: over the whole command with its start, and from the first image on. Nothing else may run meanwhile.
With 500 images of 48x48 and 2 workers it takes about 3 minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).parents[1] / "examples/photos/train"
LINEARSR = [sys.executable, "-m", "linearsr.cli.app"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Rates(NamedTuple):
    """Images per second: over the whole command, and from the first image on."""

    whole: float
    steady: float


def cut_images(folder: Path, count: int, side: int, shares: int) -> list[Path]:
    """Write `count` crops of photos, spread evenly over `shares` folders."""
    photos = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    folders = [folder / str(share) for share in range(shares)]
    for place in folders:
        place.mkdir(parents=True)
    for number in range(count):
        photo = photos[number % len(photos)]
        left, top = (int(rng.integers(size - side + 1)) for size in photo.size)
        crop = photo.crop((left, top, left + side, top + side))
        crop.save(folders[number % shares] / f"{number:05}.png")
    return folders


def upscale_apart(folders: list[Path], output: Path) -> Rates:
    """Return the summed rates of plain processes that run at the same time, one per folder."""
    started = time.monotonic()
    commands = [
        [*LINEARSR, "upscale", str(place), "-o", str(output / place.name), "--json"] for place in folders
    ]
    processes = [
        subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        for command in commands
    ]
    records = [[json.loads(line) for line in process.communicate()[0].splitlines()] for process in processes]
    whole = sum(map(len, records)) / (time.monotonic() - started)
    return Rates(whole, sum(len(some) / sum(record["seconds"] for record in some) for some in records))


def upscale_in_bulk(source: Path, output: Path, workers: int, count: int) -> Rates:
    """Return the rates of `linearsr batch` on all images."""
    command = [*LINEARSR, "batch", str(source), "-o", str(output), "--workers", str(workers)]
    command += ["--threads-per-worker", "1", "--json"]
    started = time.monotonic()
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    record = json.loads(done.stdout)
    if record["done"] != count or len(list(output.rglob("*.png"))) != count:
        raise SystemExit(f"{record['done']} of {count} images done")
    return Rates(count / (time.monotonic() - started), record["images_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--side", type=int, default=48, help="of an image, in pixels")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folders = cut_images(folder / "in", arguments.images, arguments.side, arguments.workers)
        apart = upscale_apart(folders, folder / "apart")
        bulk = upscale_in_bulk(folder / "in", folder / "bulk", arguments.workers, arguments.images)
        same = sum(
            (folder / "bulk" / path.relative_to(folder / "apart")).read_bytes() == path.read_bytes()
            for path in (folder / "apart").rglob("*.png")
        )
    table = Table(
        "images/s",
        "from start to end",
        "from the first image on",
        title=f"{arguments.images} images of {arguments.side}x{arguments.side}, {same} with the same bytes",
    )
    table.add_row(f"{arguments.workers} x upscale", f"{apart.whole:.2f}", f"{apart.steady:.2f}")
    table.add_row(f"batch, {arguments.workers} workers", f"{bulk.whole:.2f}", f"{bulk.steady:.2f}")
    table.add_row("share", f"{bulk.whole / apart.whole:.1%}", f"{bulk.steady / apart.steady:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
