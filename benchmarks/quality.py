"""Compare the quality of a model with bicubic and HR, at several settings.

    python benchmarks/quality.py --hr PHOTOS --degrade mild bicubic     # LR made on the fly, seed 0
    python benchmarks/quality.py --pairs LR HR                          # given pairs, matched by stem; or both

Shows PSNR-Y, SSIM-Y, LPIPS, sharpness and NIQE. Y is BT.601 studio range, no border crop. Sharpness is the
standard deviation of the Laplacian of Y, divided by that of the HR image. LPIPS and NIQE are means over the
images that they can judge; images too small for them (under 31x31, 192x192) or too flat for NIQE are counted
below the table.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.evaluation.lpips import lpips
from linearsr.evaluation.matching import match
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.evaluation.niqe import niqe
from linearsr.images.colour import rgb_to_y
from linearsr.images.files import list_images
from linearsr.images.photos import read_rgb
from linearsr.training.validation import validation_pairs

Pair = tuple[str, Tensor, Tensor]
"""(name, LR (3, h, w), HR (3, H, W)), both in [0, 1]."""


class Score(NamedTuple):
    psnr: float
    ssim: float
    lpips: float
    """LPIPS; NaN if the image is too small."""
    sharpness: float
    niqe: float
    """NIQE; NaN if the image is too small or too flat."""


def given_pairs(lr_folder: Path, hr_folder: Path) -> Iterator[Pair]:
    for files in match(list_images(lr_folder), list_images(hr_folder), "LR image"):
        lr, hr = (torch.tensor(read_rgb(file)).permute(2, 0, 1) / 255 for file in files)
        yield files[1].stem, lr, hr


def degraded_pairs(hr_folder: Path, preset: str) -> Iterator[Pair]:
    for name, lr, hr in validation_pairs(hr_folder, preset, scale=4, max_pictures=10**6):
        yield name, (lr + 1) / 2, (hr + 1) / 2


def pair_sets(hr: Path | None, presets: Sequence[str], pairs: Sequence[Path] | None) -> dict[str, list[Pair]]:
    """Return the photos of `hr` by preset, and the `pairs` of folders (LR, HR) by the name of HR's parent."""
    sets = {} if hr is None else {preset: list(degraded_pairs(hr, preset)) for preset in presets}
    if pairs is not None:
        sets[pairs[1].absolute().parent.name] = list(given_pairs(*pairs))
    return sets


def bicubic(lr: Tensor) -> Tensor:
    return resized(lr, Image.Resampling.BICUBIC)


def resized(lr: Tensor, how: Image.Resampling) -> Tensor:
    image = Image.fromarray((lr.permute(1, 2, 0) * 255).round().byte().numpy())
    large = image.resize((image.width * 4, image.height * 4), how)
    return torch.from_numpy(np.asarray(large, dtype=np.float32) / 255).permute(2, 0, 1)


def sharpness(image: Tensor, reference: Tensor) -> float:
    kernel = image.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    mine, whole = (float(F.conv2d(rgb_to_y(x), kernel).std()) for x in (image, reference))
    return mine / whole


def eight_bit(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 255


def value_or_nan(metric: Callable[..., float], *images: Tensor) -> float:
    try:
        return metric(*images)
    except ValueError:
        return math.nan


def niqe_or_nan(image: Tensor) -> float:
    return value_or_nan(niqe, image)


def score(image: Tensor, reference: Tensor) -> Score:
    return Score(
        psnr_y(image, reference),
        ssim_y(image, reference),
        value_or_nan(lpips, image, reference),
        sharpness(image, reference),
        niqe_or_nan(image),
    )


def mean(scores: list[Score]) -> Score:
    """Return the mean of each score over the images, without NaN for LPIPS and NIQE."""
    psnr, ssim, distances, sharp, niqes = zip(*scores, strict=True)
    return Score(fmean(psnr), fmean(ssim), mean_of_judged(distances), fmean(sharp), mean_of_judged(niqes))


def mean_of_judged(values: Sequence[float]) -> float:
    judged = [value for value in values if not math.isnan(value)]
    return fmean(judged) if judged else math.nan


def row(setting: str, mine: Score, base: Score) -> list[str]:
    distances = [
        f"{mine.psnr:.3f}",
        f"{mine.psnr - base.psnr:+.3f}",
        f"{mine.ssim:.4f}",
        f"{mine.ssim - base.ssim:+.4f}",
    ]
    if setting == "HR":
        distances = ["", "", "", ""]
    perceived = "" if setting == "HR" or math.isnan(mine.lpips) else f"{mine.lpips:.4f}"
    naturalness = "" if math.isnan(mine.niqe) else f"{mine.niqe:.2f}"
    return [setting, *distances, perceived, f"{mine.sharpness:.2f}", naturalness]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, help="folder of HR photos, which are degraded")
    parser.add_argument("--degrade", nargs="+", default=["mild", "bicubic"], help="presets for making LR")
    parser.add_argument("--pairs", type=Path, nargs=2, metavar=("LR", "HR"), help="folders of given pairs")
    parser.add_argument("--model", help="folder or hub id; the default model if left out")
    parser.add_argument(
        "--fidelity", type=float, nargs="+", help="settings to try; the model's own if left out"
    )
    parser.add_argument("--steps", type=int, nargs="+", help="settings to try; the model's own if left out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    if args.hr is None and args.pairs is None:
        parser.error("give --hr, --pairs or both")

    pipe = LinearSRPipeline.from_pretrained(args.model)
    sets = pair_sets(args.hr, args.degrade, args.pairs)
    settings = [
        (steps, fidelity)
        for steps in args.steps or [None]
        for fidelity in args.fidelity or sorted({0.0, 0.5, 1.0, pipe.config.fidelity})
    ]
    columns = "input", "setting", "PSNR-Y", "gain", "SSIM-Y", "gain", "LPIPS", "sharpness", "NIQE"
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    own = pipe.config.fidelity
    notes = ["* the model's own fidelity"] if any(fidelity == own for _, fidelity in settings) else []
    for name, pairs in sets.items():
        scores: dict[str, list[Score]] = defaultdict(list)
        for _, lr, hr in track(pairs, name, console=Console(stderr=True)):
            results = {"HR": hr, "bicubic": bicubic(lr)}
            for steps, fidelity in settings:
                output = pipe(
                    lr,
                    num_inference_steps=steps,
                    fidelity=None if fidelity == own else fidelity,
                    seed=args.seed,
                    output_type="pt",
                )
                mark = " *" if fidelity == own else ""
                number = "" if steps is None else f"{steps} steps, "
                results[f"{number}fidelity {fidelity:g}{mark}"] = output.images[0]
            for setting, image in results.items():
                scores[setting].append(score(eight_bit(image)[None], hr[None]))
        means = {setting: mean(values) for setting, values in scores.items()}
        for setting, values in means.items():
            table.add_row(f"{name} ({len(pairs)})", *row(setting, values, means["bicubic"]))
        for metric, reason in (("lpips", "too small"), ("niqe", "too small or flat")):
            unjudged = sum(math.isnan(getattr(value, metric)) for value in scores["HR"])
            if unjudged:
                notes.append(
                    f"{metric.upper()} is without {unjudged} of the {len(pairs)} images of {name}: {reason}"
                )
    table.caption = "\n".join(notes)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
