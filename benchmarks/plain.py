"""Measure grain and mesh on plain surfaces, which should show nothing. Lower is better; compare with HR.

    python benchmarks/plain.py --hr PHOTOS --degrade bicubic mild realesrgan --models default OTHER

A window of 32x32 pixels is plain if the standard deviation of HR luma in it is below 2 grey levels. Grain is
the deviation of the picture's luma there. Mesh is the RMS of its patterns with periods of 4 and 8 pixels,
which networks that upscale by 4 leave along rows, columns and both diagonals. Both are in grey levels, RMS
over all windows.
"""

import argparse
from pathlib import Path

import torch
from quality import bicubic, eight_bit, pair_sets
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.images.colour import rgb_to_y

_SIDE, _PLAIN = 32, 2.0
_PERIODS = 4, 8


def windows(image: Tensor) -> Tensor:
    """Cut the luma of (3, H, W) in [0, 1] into windows (N, 32, 32), in grey levels minus their means."""
    y = 255 * rgb_to_y(image[None])[0, 0]
    tiles = y.unfold(0, _SIDE, _SIDE).unfold(1, _SIDE, _SIDE).reshape(-1, _SIDE, _SIDE)
    return tiles - tiles.mean((1, 2), keepdim=True)


def grain_and_mesh(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squares of windows (N, 32, 32), and of the mesh patterns in them: (N,) each."""
    spectrum = torch.fft.fft2(tiles) / _SIDE**2
    bins = [
        (row * (_SIDE // period), column * (_SIDE // period))
        for period in _PERIODS
        for row, column in ((1, 0), (0, 1), (1, 1), (1, -1))
    ]
    # a pattern of amplitude a has a / 2 in its bin and in the mirrored one, and a mean square of a^2 / 2
    return tiles.square().mean((1, 2)), torch.stack(
        [2 * spectrum[:, i, j].abs().square() for i, j in bins]
    ).sum(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos, which are degraded")
    parser.add_argument("--degrade", nargs="+", default=["bicubic", "mild", "realesrgan"])
    parser.add_argument("--models", nargs="+", default=["default"], help="folders, or default")
    args = parser.parse_args()

    pipes = {
        name: LinearSRPipeline.from_pretrained(None if name == "default" else name) for name in args.models
    }
    table = Table("input", "picture", "windows", "grain", "mesh", box=SIMPLE_HEAD, pad_edge=False)
    for preset, pairs in pair_sets(args.hr, args.degrade, None).items():
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for _, lr, hr in track(pairs, preset, console=Console(stderr=True)):
            plain = windows(hr).square().mean((1, 2)).sqrt() < _PLAIN
            if not plain.any():
                continue
            images = {"HR": hr, "bicubic": bicubic(lr)}
            images |= {name: pipe(lr, output_type="pt").images[0] for name, pipe in pipes.items()}
            for name, image in images.items():
                found.setdefault(name, []).append(grain_and_mesh(windows(eight_bit(image))[plain]))
        for name, values in found.items():
            grain, mesh = (torch.cat(squares) for squares in zip(*values, strict=True))
            figures = (f"{float(squares.mean().sqrt()):.2f}" for squares in (grain, mesh))
            table.add_row(preset, name, str(len(grain)), *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
