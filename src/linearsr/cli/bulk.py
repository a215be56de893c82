"""`linearsr batch`: any number of images, on all of this machine or on a Ray cluster."""

import time
from collections.abc import Iterable
from contextlib import closing
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from linearsr.cli.bulk_progress import BulkProgress
from linearsr.cli.console import FAILED, INTERRUPTED, debugging, failure, say, stop
from linearsr.cli.loading import DType
from linearsr.cli.options import ColourFixed, Fidelity, Model, Quality, Scale, Seed, Steps, WeightType
from linearsr.cli.outputs import Format

if TYPE_CHECKING:
    from linearsr.serving.bulk import Report, Result

_SECONDS_BETWEEN_REPORTS = 60


class Device(str, Enum):
    """What the workers compute on; `auto` is a GPU for each where Ray has them."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Folder, tar file (WebDataset) or pattern as 'set-*.tar'; also s3://..., gs://..., or any URL that "
            "fsspec knows. Folders are searched to the bottom.",
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DST", help="Folder or URL for the results.")
    ],
    shards: Annotated[
        bool, typer.Option("--shards", help="From each tar file make a tar file, not a folder of images.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one for each GPU, else what CPUs and memory allow."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads-per-worker", min=1, help="Default: the CPUs divided by the workers."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster: auto, or HOST:PORT. Default: RAY_ADDRESS, else this machine."),
    ] = None,
    model: Model = None,
    scale: Scale = None,
    steps: Steps = None,
    fidelity: Fidelity = None,
    tags: Annotated[
        str | None, typer.Option(help="What is in all of the images, as for linearsr upscale.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(min=0, help="How strongly tags guide. Default: the model's.")
    ] = None,
    seed: Seed = 0,
    device: Annotated[Device, typer.Option(help="What the workers compute on.")] = Device.auto,
    dtype: WeightType = DType.auto,
    color_fix: ColourFixed = None,
    format: Annotated[Format, typer.Option(case_sensitive=False, help="Type of the results.")] = Format.png,
    quality: Quality = 95,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, max=178_956_970, help="Refuse inputs with more pixels. Default: 64 million."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make results that exist anew.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Counts, rate and time left as JSON lines on stdout; the last has all."),
    ] = False,
) -> None:
    """Upscale any number of images with several processes, or on a Ray cluster.

    What is done is skipped, so a stopped job goes on where it was, and an image whose process is killed is done again.
    What became of each image stands in DST/report.parquet; an image that fails stops nothing.
    """
    try:
        from linearsr.serving.bulk import Cluster, Report, Work, make_plan, results
    except ImportError as error:
        if debugging():
            raise
        stop(f"linearsr batch needs {error.name}: pip install 'linearsr[batch]'")
    from linearsr.images.io import DEFAULT_MAX_PIXELS
    from linearsr.serving.worker import load

    suffix = f".{format.value}"
    options = {
        "scale": scale,
        "num_inference_steps": steps,
        "fidelity": fidelity,
        "tags": tags,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "color_fix": color_fix.value if color_fix is not None else None,
    }
    try:
        plan = make_plan(source, output, suffix, shards=shards, overwrite=overwrite)
        report = Report(plan.places.target)
    # each kind of store has errors of its own
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))
    work = Work(plan.places, options, quality, max_pixels or DEFAULT_MAX_PIXELS)
    if plan.done and not plan.todo:
        say(f"nothing to do: all {len(plan.done)} results are there (--overwrite makes them anew)")
    else:
        say(f"{len(plan.todo)} image{'s' * (len(plan.todo) != 1)} to do, {len(plan.done)} done already")
    where = Cluster(address, workers, threads, use_gpu=device in (Device.auto, Device.cuda))
    load_model = partial(load, model, device.value, dtype.value)
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
        try:
            for row in rows:
                report.add(row)
                progress.add(row)
                if time.monotonic() - written > _SECONDS_BETWEEN_REPORTS:
                    report.write()
                    written = time.monotonic()
        finally:
            report.write()
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))
    except KeyboardInterrupt:
        stop(f"interrupted; {progress.summary()}", INTERRUPTED)
    progress.finish(report.url)
