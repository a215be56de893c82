"""Memory of `linearsr eval` over thousands of pairs, and whether it goes on after a kill (Linux).

    python benchmarks/streaming.py --pairs 3000 --side 64

Makes the pairs in a temporary folder, kills the command (SIGKILL) after half of them, and runs it again. Prints the
resident memory after so many pairs, and how many of them the second run did not measure again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

POINTS = (0.02, 0.25, 0.5, 0.75, 1.0)
"""Shares of the pairs after which memory is looked at."""


def make_pairs(folder: Path, pairs: int, side: int) -> None:
    rng = np.random.default_rng(0)
    for name in ("results", "hr"):
        (folder / name).mkdir()
    for i in range(pairs):
        hr = rng.integers(0, 256, (side, side, 3))
        noise = rng.integers(-20, 21, hr.shape)
        for name, pixels in (("hr", hr), ("results", hr + noise)):
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:05}.png")


def start(folder: Path, metrics: str) -> "subprocess.Popen[bytes]":
    command = f"eval {folder}/results {folder}/hr --metrics {metrics} -o {folder}/out --json"
    with (folder / "document.json").open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "linearsr.cli.app", *command.split()],
            stdout=file,
            stderr=subprocess.DEVNULL,
        )


def measured(folder: Path) -> int:
    """Lines of the table so far, without its head."""
    table = folder / "out/per_image.csv"
    return table.read_bytes().count(b"\n") - 1 if table.exists() else 0


def resident_mib(process: "subprocess.Popen[bytes]") -> float:
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def watch(process: "subprocess.Popen[bytes]", folder: Path, marks: list[int]) -> list[float]:
    """Resident memory, in MiB, when so many pairs are measured."""
    found = []
    for mark in marks:
        while measured(folder) < mark and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        found.append(resident_mib(process))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--metrics", default="psnr_y,ssim_y")
    args = parser.parse_args()

    table = Table("run", "pairs measured", "resident memory", box=SIMPLE_HEAD, pad_edge=False)
    with TemporaryDirectory() as place:
        folder = Path(place)
        make_pairs(folder, args.pairs, args.side)
        # the last pairs come before the report, which holds some images
        marks = [max(1, int(share * args.pairs) - 5) for share in POINTS]
        half = len(marks) // 2 + 1
        first = start(folder, args.metrics)
        for mark, mib in zip(marks, watch(first, folder, marks[:half]), strict=False):
            table.add_row("first", f"{mark:,}", f"{mib:.0f} MiB")
        first.kill()
        first.wait()
        kept = measured(folder)
        second = start(folder, args.metrics)
        for mark, mib in zip(marks[half:], watch(second, folder, marks[half:]), strict=False):
            table.add_row("second", f"{mark:,}", f"{mib:.0f} MiB")
        second.wait()
        report = json.loads((folder / "document.json").read_text(encoding="utf-8"))
    console = Console(width=100)
    console.print(table)
    console.print(
        f"killed after {kept:,} pairs; the second run kept {report['reused']:,} of them and holds {report['images']:,}"
    )


if __name__ == "__main__":
    main()
