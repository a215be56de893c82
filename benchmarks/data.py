"""Measure what shards save: training samples per CPU second, from photos and from shards of `linearsr shard`.

    python benchmarks/data.py [PHOTOS] [--lr-crop 128] [--samples 64]

Nothing is cached, as with more photos than fit in memory. Without PHOTOS, PNG photos of 2040x1356, the usual
size in DIV2K, are made from examples/photos. Takes about a minute on an idle core.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from linearsr.training.data import CropPairs, DataConfig

EXAMPLES = Path(__file__).parents[1] / "examples/photos/train"
WIDTH, HEIGHT, COUNT = 2040, 1356, 8


def put_together(folder: Path) -> Path:
    """Make large photos out of rows of the examples."""
    tiles = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(COUNT):
        photo = Image.new("RGB", (WIDTH, HEIGHT))
        for top in range(0, HEIGHT, min(tile.height for tile in tiles)):
            left = 0
            while left < WIDTH:
                tile = tiles[rng.integers(len(tiles))]
                photo.paste(tile, (left, top))
                left += tile.width
        photo.save(folder / f"{number}.png")
    return folder


def samples_per_second(lr_crop: int, samples: int, degrade_on: str, **source: dict[str, float]) -> float:
    """Return the rate of `CropPairs` on one core, in CPU time, so that other programs do not count."""
    config = DataConfig.model_validate(
        {**source, "lr_crop": lr_crop, "workers": 0, "cache_gib": 0, "degrade_on": degrade_on}
    )
    pairs = CropPairs(config, 4, seed=0, length=samples + 2)
    for number in range(2):
        pairs[number]
    started = time.process_time()
    for number in range(2, samples + 2):
        pairs[number]
    return samples / (time.process_time() - started)


def main() -> None:
    """Make shards of both types and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("--lr-crop", type=int, default=128)
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("source", "MiB", "samples/s", "with degradation")
    with tempfile.TemporaryDirectory() as folder:
        photos = arguments.photos or put_together(Path(folder) / "photos")
        sources: dict[str, tuple[Path, dict[str, dict[str, float]]]] = {
            "photos": (photos, {"folders": {str(photos): 1}})
        }
        for kind in ("webp", "jpg"):
            shards = Path(folder) / kind
            command = [sys.executable, "-m", "linearsr.cli.app", "shard", str(photos), "-o", str(shards)]
            subprocess.run([*command, "--size", str(4 * arguments.lr_crop), "--format", kind], check=True)
            sources[f"{kind} shards"] = (shards, {"shards": {str(shards): 1}})
        for name, (place, source) in sources.items():
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            rates = [
                samples_per_second(arguments.lr_crop, arguments.samples, where, **source)
                for where in ("device", "workers")
            ]
            table.add_row(name, f"{size / 2**20:.0f}", *(f"{rate:.1f}" for rate in rates))
    Console().print(table)


if __name__ == "__main__":
    main()
