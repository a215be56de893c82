"""`linearsr upscale`: upscale photos."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from linearsr.cli.console import doing, say_unknown, stop, told
from linearsr.cli.loading import heard_tags
from linearsr.cli.options import (
    MAX_PIXELS,
    Device,
    FormatOf,
    Images,
    JsonLines,
    MaxPixels,
    Model,
    Overwrite,
    Quality,
    WeightType,
    takes_settings,
)
from linearsr.cli.pictures import inputs_of, run_all
from linearsr.jobs.names import output_place, piped, plan
from linearsr.jobs.run import Work, no_work, pending, write_out
from linearsr.jobs.sources import mark_results, read_lists
from linearsr.jobs.upscaling import Upscaling, load_pipeline, unknown_tags
from linearsr.settings import Fit

DEFAULT_SCALE = 4.0
"""The scale of the built-in model."""


@takes_settings
def upscale(
    inputs: Images,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            help="File (for one image), folder, or - for stdout. Default: NAME_x4.png beside each input.",
        ),
    ] = None,
    model: Model = None,
    *,
    settings: dict[str, Any],
    width: Annotated[
        int | None, Option(min=1, help="Width of the results in pixels, instead of --scale.")
    ] = None,
    height: Annotated[
        int | None, Option(min=1, help="Height of the results; with --width, results fit within both.")
    ] = None,
    megapixels: Annotated[
        float | None, Option(min=0.0001, help="Size of the results in millions of pixels.")
    ] = None,
    device: Device = "auto",
    dtype: WeightType = "auto",
    format: FormatOf = None,
    suffix: Annotated[
        str | None,
        Option(help="Suffix of the names of results. Default: _x4 beside the inputs, none with -o."),
    ] = None,
    quality: Quality = 95,
    max_pixels: MaxPixels = MAX_PIXELS,
    memory_limit: Annotated[
        float | None,
        Option(min=0, help="GiB per image; larger images are processed in strips. Default: the free memory."),
    ] = None,
    strip_metadata: Annotated[
        bool, Option("--strip-metadata", help="Leave out all metadata except colour information.")
    ] = False,
    strip_gps: Annotated[
        bool, Option("--strip-gps", help="Leave out the location (GPS) from EXIF and XMP.")
    ] = False,
    strict: Annotated[
        bool, Option("--strict", help="Refuse damaged files instead of reading what is left.")
    ] = False,
    overwrite: Overwrite = False,
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Report the memory each image needs, and the progress.")
    ] = False,
    as_json: JsonLines = False,
) -> None:
    """Upscale photos.

    Existing results are skipped, so the same command resumes an interrupted run. NAME_x4.png next to an input
    NAME.jpg counts as its result and is skipped too. photo.jpg and photo.png become photo_jpg_x4.png and
    photo_png_x4.png.

    Images that do not fit in memory are processed in strips of rows.

        linearsr upscale photo.jpg
        linearsr upscale holiday/ -o large/ --format jpg
        linearsr upscale scan.png --scale 2 --fidelity 1
    """
    fit = Fit(width, height, megapixels)
    if fit and settings["scale"] is not None:
        stop("--scale cannot be combined with --width, --height or --megapixels: give one of them")
    settings["scale"] = None if fit else settings["scale"] or (_own_scale(model) if model else DEFAULT_SCALE)
    if settings["tags"]:
        settings["tags"] = heard_tags(model, settings["tags"])
    upscaling = Upscaling(
        settings=settings,
        max_pixels=max_pixels,
        quality=quality,
        overwrite=overwrite,
        fit=fit,
        memory_limit=memory_limit,
        keep="nothing" if strip_metadata else "no places" if strip_gps else "all",
        strict=strict,
        verbose=verbose,
    )
    with told(), piped(read_lists(inputs), output) as pipes:
        if pipes.to_stdout and as_json:
            stop("--json and the result would both go to stdout: add -o FILE")
        place = output_place(pipes.names, pipes.output, format, suffix)
        sources = inputs_of(pipes.names, place.folder, suffix)
        size = fit.suffix() if fit else f"_x{settings['scale']:g}"
        jobs = [pipes.called(job) for job in plan(sources, place.namer(size))]
        if place.folder is not None and any(job.error is None for job in jobs):
            mark_results(place.folder, pipes.names)
        work: Work = no_work
        unknown: list[str] = []
        if pending(jobs, overwrite):  # otherwise no model is needed
            with doing("loading the model"):
                pipeline = load_pipeline(model, device, dtype, option="--device ")
                unknown = unknown_tags(pipeline, settings)
            say_unknown(unknown)
            work = partial(upscaling.upscale, pipeline)
        if pipes.to_stdout:
            work = write_out(work, sys.stdout.buffer)
        told_of = {"seed": settings["seed"], "model": None, "tags": None, "unknown_tags": unknown}
        run_all(jobs, work, overwrite=overwrite, as_json=as_json, settings=told_of)


def _own_scale(model: str) -> float:
    """Return the scale in a model's config: results are named after it before the model is loaded."""
    from linearsr.model_folder import model_scale

    with told():
        return model_scale(model)
