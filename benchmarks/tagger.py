"""Measure how well a tagger knows photos: average precision against that of knowing only tag frequencies.

    python benchmarks/tagger.py --data data/val --tags data/tags.json --model runs/tagger/knee/tagger --per-tag

Each degradation makes LR images of every photo, `--draws` times with different seeds (bicubic once). Columns:

mAP        mean average precision over the tags that any photo has
chance     the same for scores that are equal for all photos: a tag's share of the photos
offered    mAP over the tags that the tagger may give, and their chance
per photo  average precision of the ranking of tags for each photo, mean over the photos
freq.      the same when tags are ranked by frequency in the photos of the tag file outside `--data`
given      mean number of tags given to a photo
right      share of the given tags that are right
recall     share of the photos' offered tags that are given
same       tags given to both the degraded and the clean photo, as a share of those given to either
"""

import argparse
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from time import process_time
from typing import NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from linearsr.guidance.own_tagger import OwnTagger
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import default_model_folder
from linearsr.training.catalogue import find_photos
from linearsr.training.data import to_tensor
from linearsr.training.photo_tags import PhotoTags, name_in, read_tags
from linearsr.training.tagger import average_precisions

SCALE = 4


class Draw(NamedTuple):
    """The results for all photos, degraded once."""

    scores: Tensor
    """Scores (N, V) of N photos and V tags."""
    given: Tensor
    """(N, V), 1 for the tags that the tagger gives, else 0."""


def lr_images(photos: list[Path], preset: str, seed: int) -> Iterator[Tensor]:
    for photo in photos:
        hr = crop_to_multiple(read_rgb(photo), SCALE)
        yield to_tensor(degrade(hr, PRESETS[preset], file_generator(seed, photo.stem), SCALE))


@torch.inference_mode()
def tagged(tagger: OwnTagger, lrs: Iterator[Tensor]) -> Draw:
    vocabulary = tagger.config.vocabulary
    scores, given = [], []
    for lr in lrs:
        scores.append(tagger(lr[None])[0].sigmoid())
        names = {tag.name for tag in tagger.tag(lr)}
        given.append(torch.tensor([float(tag in names) for tag in vocabulary]))
    return Draw(torch.stack(scores), torch.stack(given))


def mean_over(draws: list[Draw], labels: Tensor) -> Tensor:
    """Return the average precision of each tag (V,), the mean over the draws."""
    return torch.stack([average_precisions(draw.scores, labels) for draw in draws]).mean(dim=0)


def frequencies(tag_file: Path, photos: list[Path], vocabulary: tuple[str, ...]) -> Tensor:
    """Return the share (V,) of the other photos in the tag file that have each tag."""
    tags, measured = read_tags(tag_file), {name_in(tag_file, photo) for photo in photos}
    others = PhotoTags(tag_file, Vocabulary(vocabulary))
    return torch.stack([others.bag(tag_file.parent / name) for name in tags if name not in measured]).mean(0)


def overlap(draw: Draw, clean: Draw) -> float:
    """Return the mean share of tags given to both photos, among those given to either; 1 if none."""
    both, either = (draw.given * clean.given).sum(1), (draw.given + clean.given).clamp(max=1).sum(1)
    return float(torch.where(either > 0, both / either.clamp(min=1), 1.0).mean())


def milliseconds(tagger: OwnTagger, width: int, height: int, repeats: int = 9) -> float:
    """Return the median CPU time for one photo; other programs do not count."""
    lr = torch.rand(3, height, width) * 2 - 1
    times = []
    for _ in range(repeats):
        started = process_time()
        tagger.tag(lr)
        times.append(process_time() - started)
    return 1000 * sorted(times)[repeats // 2]


def summary(draws: dict[str, list[Draw]], labels: Tensor, offered: Tensor, known: Tensor) -> Table:
    table = Table("LR made by", "mAP", "chance", "offered", "chance", "per photo", "freq.", box=SIMPLE_HEAD)
    for column in ("given", "right", "recall", "same"):
        table.add_column(column)
    chance = torch.where(labels.any(dim=0), labels.mean(dim=0), torch.nan)
    by_frequency = average_precisions(known[:, None].expand(-1, len(labels)), labels.T).nanmean()
    for name, repeated in draws.items():
        precisions = mean_over(repeated, labels)
        ranks = torch.stack([average_precisions(draw.scores.T, labels.T) for draw in repeated]).nanmean()
        given = torch.stack([draw.given for draw in repeated])
        right = (given * labels).sum()
        values = [
            f"{float(value):.3f}"
            for value in (
                precisions.nanmean(),
                chance.nanmean(),
                precisions[offered].nanmean(),
                chance[offered].nanmean(),
                ranks,
                by_frequency,
            )
        ]
        values.append(f"{float(given.sum(2).mean()):.1f}")
        values.append(f"{float(right / given.sum()):.0%}" if given.any() else "-")
        values.append(f"{float(right / (labels[:, offered].sum() * len(repeated))):.0%}")
        same = sum(overlap(draw, draws["bicubic"][0]) for draw in repeated) / len(repeated)
        table.add_row(name, *values, f"{same:.0%}")
    return table


def per_tag(draws: dict[str, list[Draw]], labels: Tensor, tagger: OwnTagger, known: Tensor) -> Table:
    table = Table("tag", "photos", "of others", "chance", *draws, "threshold", box=SIMPLE_HEAD)
    precisions = [mean_over(repeated, labels) for repeated in draws.values()]
    counts = labels.sum(dim=0)
    for number in counts.argsort(descending=True, stable=True).tolist():
        tag = tagger.config.vocabulary[number]
        if counts[number] or tag in tagger.offered:
            values = [float(counts[number]) / len(labels), *(float(values[number]) for values in precisions)]
            table.add_row(
                tag,
                f"{int(counts[number])}",
                f"{float(known[number]):.1%}",
                *("-" if isnan(value) else f"{value:.2f}" for value in values),
                f"{tagger.offered[tag]:.2f}" if tag in tagger.offered else "not offered",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of HR photos")
    parser.add_argument("--tags", type=Path, required=True, help="JSON file with their tags")
    parser.add_argument(
        "--model", type=Path, help="folder of a tagger; that of the default model if left out"
    )
    parser.add_argument("--degrade", nargs="+", default=["mild", "realesrgan"], help="presets beside bicubic")
    parser.add_argument("--draws", type=int, default=4, help="degraded versions of each photo")
    parser.add_argument("--per-tag", action="store_true", help="a line for each tag, too")
    args = parser.parse_args()

    tagger = OwnTagger.from_pretrained(args.model or default_model_folder() / "tagger", torch.float32)
    photos = find_photos(args.data, "--data")
    photo_tags = PhotoTags(args.tags, Vocabulary(tagger.config.vocabulary))
    labels = torch.stack([photo_tags.bag(photo) for photo in photos])
    offered = torch.tensor([tag in tagger.offered for tag in tagger.config.vocabulary])
    known = frequencies(args.tags, photos, tagger.config.vocabulary)
    draws = {
        preset: [
            tagged(tagger, lr_images(photos, preset, seed))
            for seed in track(
                range(1 if preset == "bicubic" else args.draws), preset, console=Console(stderr=True)
            )
        ]
        for preset in dict.fromkeys(["bicubic", *args.degrade])
    }
    console = Console(width=120)
    small, large = milliseconds(tagger, 256, 256), milliseconds(tagger, 4000, 3000)
    console.print(
        f"{len(photos)} photos with {int(labels.any(0).sum())} tags; {len(tagger.offered)} tags are offered, "
        f"{int(labels[:, offered].any(0).sum())} of them occur\n"
        f"{small:.1f} ms of CPU for 256x256, {large:.1f} for 4000x3000"
    )
    console.print(summary(draws, labels, offered, known))
    if args.per_tag:
        console.print(per_tag(draws, labels, tagger, known))


if __name__ == "__main__":
    main()
