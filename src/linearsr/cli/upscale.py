"""`linearsr upscale`: photos in, better photos out."""

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from linearsr.cli.batch import no_work, pending, run_batch
from linearsr.cli.console import say, shown
from linearsr.cli.inputs import find_sources, plan, split_results
from linearsr.cli.loading import DType, own_scale
from linearsr.cli.options import (
    ColourFixed,
    Fidelity,
    Images,
    JsonLines,
    Model,
    Overwrite,
    Quality,
    Scale,
    Seed,
    Steps,
    WeightType,
)
from linearsr.cli.outputs import Format, output_place
from linearsr.cli.upscaling import Upscaling
from linearsr.cli.workers import Workers
from linearsr.images.files import tell_others


def upscale(
    inputs: Images,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file for one image, a folder otherwise. Default: beside each input, as NAME_x4.png.",
        ),
    ] = None,
    model: Model = None,
    scale: Scale = None,
    steps: Steps = None,
    fidelity: Fidelity = None,
    tags: Annotated[
        str | None,
        typer.Option(
            help="What is in the photos: 'brick wall, ivy' in place of the tags found, '+ivy' beside them, "
            "'' for none. Default: as the model does by itself."
        ),
    ] = None,
    guidance_scale: Annotated[
        float | None,
        typer.Option(min=0, help="How strongly tags guide; 1 costs no second pass. Default: the model's."),
    ] = None,
    seed: Seed = 0,
    device: Annotated[
        str,
        typer.Option(help="auto, cpu, cuda, mps, ...; several, as cuda:0,cuda:1, each take the next image."),
    ] = "auto",
    dtype: WeightType = DType.auto,
    color_fix: ColourFixed = None,
    format: Annotated[
        Format | None,
        typer.Option(case_sensitive=False, help="Type of the results. Default: that of -o FILE, else png."),
    ] = None,
    quality: Quality = 95,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse inputs with more pixels. Default: 64 million."),
    ] = None,
    memory_limit: Annotated[
        float | None,
        typer.Option(
            min=0, help="GiB that an image may take; larger ones go in strips. Default: what is free."
        ),
    ] = None,
    strip_metadata: Annotated[
        bool,
        typer.Option("--strip-metadata", help="Leave out EXIF, XMP, IPTC, PNG text and tags; colours stay."),
    ] = False,
    strip_gps: Annotated[
        bool, typer.Option("--strip-gps", help="Leave out where the photo was taken (EXIF and XMP).")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse damaged files that can be read in spite of it.")
    ] = False,
    overwrite: Overwrite = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say how much memory each image needs, and what is done.")
    ] = False,
    as_json: JsonLines = False,
) -> None:
    """Upscale photos: images, folders, or patterns.

    Results that exist are skipped, so a stopped run goes on where it was.
    NAME_x4.png beside an input NAME.jpg is taken for its result and left out.
    photo.jpg and photo.png become photo_jpg_x4.png and photo_png_x4.png.
    PNG, TIFF and JPEG of any size: what exceeds the memory goes in strips, and after a stop goes on where it was.
    """
    place = output_place(inputs, output, format)
    sources, results = split_results(find_sources(inputs, output_folder=place.folder))
    if results:
        say(f"left out as results of earlier runs: {len(results)}, such as {shown(results[0].path.name)}")
    if others := tell_others([Path(name) for name in inputs if os.path.isdir(name)], place.folder):
        say(others)
    scale = scale or own_scale(model)
    jobs = plan(sources, place.namer(scale))
    upscaling = Upscaling(
        model=model,
        dtype=dtype,
        settings={
            "scale": scale,
            "num_inference_steps": steps,
            "fidelity": fidelity,
            "tags": tags,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "color_fix": color_fix.value if color_fix is not None else None,
        },
        max_pixels=max_pixels,
        memory_limit=memory_limit,
        overwrite=overwrite,
        quality=quality,
        keep="nothing" if strip_metadata else "no places" if strip_gps else "all",
        strict=strict,
        verbose=verbose,
    )
    devices = device.split(",")
    todo = pending(jobs, overwrite)
    run = partial(run_batch, jobs, overwrite=overwrite, as_json=as_json)
    settings: dict[str, Any] = {"seed": seed, "model": None, "tags": None, "unknown_tags": []}
    if len(devices) > 1 and len(todo) > 1:
        with Workers(upscaling.load, devices[: len(todo)]) as workers:
            run(no_work, settings={**settings, "unknown_tags": workers.unknown}, elsewhere=workers.run)
    elif todo:
        work, unknown = upscaling.load(devices[0])
        run(work, settings={**settings, "unknown_tags": unknown})
    else:
        # nothing needs a model
        run(no_work, settings=settings)
