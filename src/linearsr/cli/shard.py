"""`linearsr shard`: cut photos into crops and pack them into WebDataset shards for training."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from linearsr.cli.console import FAILED, Bars, say, stop, told
from linearsr.cli.loading import choose_device
from linearsr.cli.options import MAX_PIXELS, Device, MaxPixels
from linearsr.jobs.messages import heard, shown, warning_text
from linearsr.jobs.names import check_folder


def shard(
    photos: Annotated[Path, Argument(metavar="PHOTOS", help="Folder of HR photos (with its subfolders).")],
    shards: Annotated[Path, Option("--output", "-o", metavar="SHARDS", help="Folder for the shards.")],
    size: Annotated[int, Option(min=32, max=16383, help="Side of the crops in pixels.")] = 512,
    crop_type: Annotated[
        Literal["webp", "jpg"], Option("--format", help="Lossless WebP, or JPEG of quality 95 (4:4:4).")
    ] = "webp",
    photos_per_shard: Annotated[int, Option(min=1, help="Photos in one shard.")] = 100,
    best_share: Annotated[
        float,
        Option(min=0.001, max=1, help="Keep this share of all crops, those with the most detail."),
    ] = 1.0,
    latents: Annotated[
        Path | None,
        Option(metavar="FOLDER", help="Also store the latents of each crop, by the DC-AE in this folder."),
    ] = None,
    device: Device = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Cut HR photos into crops, and pack them into WebDataset shards for fast training (`data.shards`).

    Crops of a photo overlap as little as possible. Existing shards are kept, so the same command resumes a stopped run.

        linearsr shard photos/ -o shards/ --size 512
    """
    from linearsr.training.shards import Packed, Sharder, ShardSettings

    if not photos.is_dir():
        stop(f"{shown(photos)} is not a folder: give a folder of HR photos")
    total = Packed()
    with told(), heard() as notes, Bars() as bars:
        check_folder(shards)
        settings = ShardSettings(size, crop_type, photos_per_shard, best_share, max_pixels)
        encoder = None
        if latents is not None:
            from linearsr.training.latents import Latents

            encoder = Latents(latents, choose_device(device))
        sharder = Sharder(photos, shards, settings, encoder)
        shards.mkdir(parents=True, exist_ok=True)
        if sharder.scores_missing:
            scores = bars.bars.add_task("photos measured", total=len(sharder.photos))
            sharder.find_least_detail(lambda: bars.bars.advance(scores))
        done = bars.bars.add_task("photos packed", total=len(sharder.photos))
        for packed in sharder.run(lambda count: bars.bars.advance(done, count)):
            for reason in packed.broken:
                say(f"left out: {reason}")
            total += packed
    for warning in dict.fromkeys(map(warning_text, notes)):
        say(f"warning: {warning}")
    flat = f", {total.flat} flat ones left out" if total.flat else ""
    broken = f", {len(total.broken)} broken photos left out" if total.broken else ""
    say(f"{total.crops} crops of {len(sharder.photos) - len(total.broken)} photos{flat}{broken}")
    if not total.crops:
        stop("no photo can be read: give others", FAILED)
    if total.broken:
        raise typer.Exit(FAILED)
