"""Measure seconds per output megapixel and peak memory, whole and by strips, on a photo tiled to any size.

    python benchmarks/large.py 256 512 --runs 3
    python benchmarks/large.py 4096 --ways strips --work large-work
    python benchmarks/large.py 4096 --rows 96 --ways strips --work large-work

Each way and size runs in its own process, so that peaks are separate; the ways take turns. Loading the model
is not counted.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linearsr.images.picture import Picture
from linearsr.images.reading import read_image
from linearsr.runtime.allocator import keep_freed_memory

_PHOTO = Path(__file__).parents[1] / "examples/photos/train/tree-bare.jpg"


class TiledPhoto:
    """A row reader of one photo, repeated and mirrored at its edges."""

    def __init__(self, width: int, height: int) -> None:
        photo = read_image(_PHOTO).colour
        photo = np.concatenate([photo, photo[:, ::-1]], axis=1)
        self._tile = np.concatenate([photo, photo[::-1]])
        self.height, self.width = height, width

    def read(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Return rows of the picture."""
        height, width = self._tile.shape[:2]
        rows = self._tile[np.arange(top, bottom) % height]
        return rows[:, np.arange(self.width) % width]


class RawWriter:
    """A writer of raw 8-bit rows to a file, so that encoding does not count."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: NDArray[np.float32]) -> None:
        """Write the next rows."""
        self._file.write(np.rint(rows * 255).astype(np.uint8).tobytes())


def run(side: int, height: int, way: str, work: Path | None, strip_rows: int | None) -> dict[str, float]:
    """Run one measurement in this process."""
    from linearsr.pipeline import LinearSRPipeline

    pipe = LinearSRPipeline.from_pretrained()
    reader = TiledPhoto(side, height)
    last = ""

    def progress(label: str, share: float) -> None:
        nonlocal last
        line = f"{label}: {share:.0%}"
        if line != last and work is not None:
            sys.stderr.write(f"{time.perf_counter() - start:8.0f} s  {line}\n")
        last = line

    # set the steps, because the model takes fewer for a photo that it finds clean
    steps = pipe.config.num_inference_steps
    start, processor = time.perf_counter(), time.process_time()
    if way == "whole":
        picture = Picture(np.ascontiguousarray(reader.read(0, height)))
        pipe.upscale(picture, num_inference_steps=steps, stream=False)
    else:
        out = Path("/dev/null") if work is None else work.with_name(f"{work.name}.raw")
        pipe.upscale_rows(
            reader,
            RawWriter(out),
            num_inference_steps=steps,
            work_folder=work,
            strip_rows=strip_rows,
            progress=progress,
        )
    megapixels = side * height * pipe.scale**2 / 1e6
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds_per_megapixel": (time.process_time() - processor) / megapixels,
        "seconds_per_megapixel": (time.perf_counter() - start) / megapixels,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sides", type=int, nargs="+", help="LR sides in pixels")
    parser.add_argument("--ways", nargs="+", default=["whole", "strips"], choices=["whole", "strips"])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--rows", type=int, help="LR rows of the picture; default: a square")
    parser.add_argument("--strip-rows", type=int)
    parser.add_argument("--work", type=Path, help="a folder for what waits between passes")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    keep_freed_memory()
    if asked.here:
        height = asked.rows or asked.sides[0]
        measured = run(asked.sides[0], height, asked.ways[0], asked.work, asked.strip_rows)
        sys.stdout.write(json.dumps(measured))
        return
    shared = {"--work": asked.work, "--rows": asked.rows, "--strip-rows": asked.strip_rows}
    more = [f"{name}={value}" for name, value in shared.items() if value]
    sys.stdout.write("| LR side | way | runs | s per output MP | CPU s per output MP | peak memory, GB |\n")
    sys.stdout.write("|---|---|---|---|---|---|\n")
    for side in asked.sides:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in asked.ways}
        for _ in range(asked.runs):
            for way in asked.ways:
                command = [sys.executable, __file__, str(side), f"--ways={way}", "--here", *more]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found[way].append(json.loads(done.stdout))
        for way, results in found.items():
            names = ("seconds_per_megapixel", "cpu_seconds_per_megapixel", "peak_gb")
            figures = [f"{statistics.median(result[name] for result in results):.2f}" for name in names]
            sys.stdout.write(f"| {side} | {way} | {len(results)} | {' | '.join(figures)} |\n")


if __name__ == "__main__":
    main()
