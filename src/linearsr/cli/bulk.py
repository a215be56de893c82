"""`linearsr batch`: any number of images, on all of this machine or on a Ray cluster."""

import time
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from linearsr.cli.bulk_progress import BulkProgress
from linearsr.cli.console import FAILED, INTERRUPTED, needing, say, stop, told
from linearsr.cli.options import MAX_PIXELS, MaxPixels, Model, Overwrite, Quality, WeightType, takes_settings

if TYPE_CHECKING:
    from linearsr.serving.bulk import Report, Result

_SECONDS_BETWEEN_REPORTS = 60


@takes_settings
def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Folder (with its subfolders), tar file (WebDataset) or pattern such as 'set-*.tar'; also s3://..., "
            "gs://... or any URL that fsspec supports.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DST", help="Folder or URL for the results.")
    ],
    shards: Annotated[
        bool, typer.Option("--shards", help="Write one tar file per input tar file, not a folder of images.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one per GPU, or what CPUs and memory allow."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads-per-worker", min=1, help="Default: CPUs divided by workers.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto or HOST:PORT. Default: $RAY_ADDRESS, or else this machine."),
    ] = None,
    model: Model = None,
    *,
    settings: dict[str, Any],
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option(help="Device of the workers; auto gives each a GPU if Ray has any."),
    ] = "auto",
    dtype: WeightType = "auto",
    format: Annotated[
        Literal["png", "jpg", "webp", "tiff"], typer.Option(case_sensitive=False, help="Type of the results.")
    ] = "png",
    quality: Quality = 95,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print counts, rate and time left as JSON lines to stdout.")
    ] = False,
) -> None:
    """Upscale a large number of images with several processes or on a Ray cluster.

    Existing results are skipped, so a stopped job continues where it left off. An image whose worker is killed is
    retried, and a failed image does not stop the job. DST/report.parquet lists the outcome of every image.
    """
    with needing("linearsr batch", "batch"):
        from linearsr.serving.bulk import Cluster, Report, Work, make_plan, results
    from linearsr.jobs.upscaling import load_pipeline

    with told():  # each kind of store has errors of its own
        plan = make_plan(source, output, f".{format}", shards=shards, overwrite=overwrite)
        report = Report(plan.places.target)
    work = Work(plan.places, settings, quality, max_pixels)
    if plan.done and not plan.todo:
        say(f"nothing to do: all {len(plan.done)} results exist (--overwrite replaces them)")
    else:
        say(f"{len(plan.todo)} image{'s' * (len(plan.todo) != 1)} to do, {len(plan.done)} done already")
    where = Cluster(address, workers, threads, use_gpu=device in ("auto", "cuda"))
    load_model = partial(load_pipeline, model, device, dtype)
    with (
        BulkProgress(len(plan), as_json) as progress,
        closing(results(plan, work, load_model, where, progress.killed)) as rows,
    ):
        _follow(rows, report, progress)
    if progress.counts["failed"]:
        raise typer.Exit(FAILED)


def _follow(rows: "Iterable[Result]", report: "Report", progress: BulkProgress) -> None:
    """Until all is done, or Ctrl-C: what is known by then stands in the report either way."""
    written = time.monotonic()
    try:
        with told():
            for row in rows:
                report.add(row)
                progress.add(row)
                if time.monotonic() - written > _SECONDS_BETWEEN_REPORTS:
                    report.write()
                    written = time.monotonic()
    except KeyboardInterrupt:
        stop(f"interrupted; {progress.summary()}", INTERRUPTED)
    finally:
        with told():
            report.write()
    progress.finish(report.url)
