"""Measure the effect of guidance: a network with none, with tags of several kinds, or with visual features.

    python research/guidance.py --hr PHOTOS --tags tags.json --model none=DIR tags=DIR features=DIR --tagger DIR

A model with tag guidance is measured without tags, with the true tags of `tags.json`, with those that the
tagger finds in the LR image, and with the true tags of another photo. Figures are means over the photos; LR
is made with seed 0.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.guidance.base import Tagger
from linearsr.images.files import list_images
from linearsr.model_folder import load_tagger
from linearsr.training.photo_tags import name_in, read_tags

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import Score, bicubic, degraded_pairs, eight_bit, mean, score

Tags = list[list[str]]
"""The list of tags of each photo."""


def of_another_photo(tags: Tags) -> Tags:
    """Shuffle the lists of tags so that each belongs to another photo."""
    order = list(range(len(tags)))
    random.Random(0).shuffle(order)
    wrong = dict(zip(order, order[1:] + order[:1], strict=True))
    return [tags[wrong[i]] for i in range(len(tags))]


def kinds(
    pipe: LinearSRPipeline, true: Tags, lrs: list[Tensor], tagger: Tagger
) -> Iterator[tuple[str, Tags]]:
    """Yield the kinds of tags that can guide a model, with the tags of each photo."""
    none: Tags = [[] for _ in true]
    if pipe.guidance is None or not pipe.guidance.uses_tags:
        yield "", none
        return
    yield "none", none
    yield "true", true
    yield "of the tagger", [[tag.name for tag in tagger.tag(lr * 2 - 1)] for lr in lrs]
    yield "of another photo", of_another_photo(true)


def named(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    return name, folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hr", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--tags", type=Path, required=True, help="JSON file with the tags of the photos")
    parser.add_argument(
        "--model", nargs="+", type=named, required=True, metavar="NAME=DIR", help="to compare"
    )
    parser.add_argument("--tagger", type=Path, required=True, help="folder of a tagger")
    parser.add_argument("--degrade", nargs="+", default=["mild", "bicubic"], help="presets for making LR")
    parser.add_argument("--fidelity", type=float, nargs="+", default=[1.0, 0.0], help="settings to try")
    args = parser.parse_args()

    listed, tagger = read_tags(args.tags), load_tagger(args.tagger)
    true = [listed[name_in(args.tags, path)] for path in list_images(args.hr)]
    pipes = {name: LinearSRPipeline.from_pretrained(folder) for name, folder in args.model}
    columns = "input", "fidelity", "model", "tags", "PSNR-Y", "SSIM-Y", "sharpness", "NIQE"
    table = Table(*columns, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for preset in args.degrade:
        _, lrs, hrs = zip(*degraded_pairs(args.hr, preset), strict=True)
        base = mean([score(eight_bit(bicubic(lr))[None], hr[None]) for lr, hr in zip(lrs, hrs, strict=True)])
        table.add_row(preset, "", "bicubic", "", *shown(base))
        for fidelity in args.fidelity:
            for name, pipe in pipes.items():
                for kind, tags in kinds(pipe, true, list(lrs), tagger):
                    scores = []
                    label = f"{preset} {fidelity:g} {name} {kind}"
                    photos = list(zip(lrs, hrs, tags, strict=True))
                    for lr, hr, given in track(photos, label, console=Console(stderr=True)):
                        output = pipe(lr, tags=given, fidelity=fidelity, output_type="pt")
                        scores.append(score(eight_bit(output.images[0])[None], hr[None]))
                    table.add_row(preset, f"{fidelity:g}", name, kind, *shown(mean(scores)))
    Console(width=100).print(table)


def shown(found: Score) -> list[str]:
    return [f"{found.psnr:.3f}", f"{found.ssim:.4f}", f"{found.sharpness:.2f}", f"{found.niqe:.2f}"]


if __name__ == "__main__":
    main()
