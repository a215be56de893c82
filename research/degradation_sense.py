"""Test if the stem knows how bad an image is: give it the summary of the same photo with other degradation.

    python research/degradation_sense.py --hr PHOTOS --degrade bicubic mild realesrgan extreme

Rows are degradations of the LR image, columns those of the image whose summary the blocks get. Each cell has
the PSNR-Y and the sharpness of the stem's prediction. A stem that ignores its summary has equal columns.
"""

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import cast

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.evaluation.metrics import psnr_y
from linearsr.models.lr_stem import PredictiveStem

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import degraded_pairs, eight_bit, sharpness


def predicted(stem: PredictiveStem, lr: Tensor, summary: Tensor) -> Tensor:
    """Return the prediction (1, 3, H, W) in [0, 1] for LR (1, 3, h, w) in [-1, 1], with another `summary`."""
    assert stem.summary is not None
    hook = stem.summary.to_modulation.register_forward_pre_hook(lambda *_: (summary,))
    try:
        prediction = cast(Tensor, stem(lr).prediction)
    finally:
        hook.remove()
    return eight_bit((prediction + 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--degrade", nargs="+", default=["bicubic", "mild", "realesrgan", "extreme"])
    parser.add_argument("--model", help="default: the one built in")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    pipe = LinearSRPipeline.from_pretrained(args.model, torch_dtype=torch.float32, device="cpu")
    stem = pipe.lr_stem
    if not isinstance(stem, PredictiveStem) or stem.summary is None:
        parser.error("this model's stem has no summary of the whole image")
    made = {preset: list(degraded_pairs(args.hr, preset)) for preset in args.degrade}
    cells: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with torch.inference_mode():
        for photos in track(list(zip(*made.values(), strict=True)), console=Console(stderr=True)):
            _, lr, hr = photos[0]
            height, width = (side - side % stem.multiple_of for side in lr.shape[1:])
            truth = hr[None, :, : stem.config.scale * height, : stem.config.scale * width]
            inputs = {
                preset: 2 * lr[None, :, :height, :width] - 1
                for preset, (_, lr, _) in zip(args.degrade, photos, strict=True)
            }
            summaries = {
                preset: stem.summary.mean(stem.conv_in(stem.seen(lr))) for preset, lr in inputs.items()
            }
            for preset, lr in inputs.items():
                for told, summary in summaries.items():
                    image = predicted(stem, lr, summary)
                    score = psnr_y(image.double(), truth.double()), sharpness(image, truth)
                    cells.setdefault((preset, told), []).append(score)

    table = Table("LR", *(f"told {told}" for told in args.degrade), box=SIMPLE_HEAD, pad_edge=False)
    for preset in args.degrade:
        means = [map(fmean, zip(*cells[preset, told], strict=True)) for told in args.degrade]
        table.add_row(preset, *("{:.2f} / {:.2f}".format(*mean) for mean in means))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
