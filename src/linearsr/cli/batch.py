"""`linearsr batch`: upscale many images, on all of this machine or on a Ray cluster."""

import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from linearsr.cli.console import FAILED, INTERRUPTED, Bars, needing, say, stop, summary, told, write_json
from linearsr.cli.options import (
    MAX_PIXELS,
    JsonDocument,
    MaxPixels,
    Model,
    Overwrite,
    Quality,
    WeightType,
    takes_settings,
)
from linearsr.jobs.messages import shown

if TYPE_CHECKING:
    from linearsr.bulk.report import Report, Result, Status

_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_REPORTS = 10, 60
_FAILURES_SHOWN = 20


@takes_settings
def batch(
    source: Annotated[
        str,
        Argument(
            metavar="SRC",
            help="Folder (with its subfolders), tar file (WebDataset) or pattern such as 'set-*.tar'; also s3://..., "
            "gs://... or any URL that fsspec supports.",
        ),
    ],
    output: Annotated[str, Option("--output", "-o", metavar="DST", help="Folder or URL for the results.")],
    shards: Annotated[
        bool, Option("--shards", help="Write one tar file per input tar file instead of a folder of images.")
    ] = False,
    workers: Annotated[
        int | None,
        Option(min=1, help="Worker processes. Default: one per GPU, or as many as CPUs and memory allow."),
    ] = None,
    threads: Annotated[
        int | None,
        Option(
            "--threads-per-worker", min=1, help="CPU threads per worker. Default: CPUs divided by workers."
        ),
    ] = None,
    address: Annotated[
        str | None,
        Option(help="Ray cluster: auto or HOST:PORT. Default: $RAY_ADDRESS, or else this machine."),
    ] = None,
    model: Model = None,
    *,
    settings: dict[str, Any],
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Option(help="Device of the workers; auto gives each a GPU if Ray has any."),
    ] = "auto",
    dtype: WeightType = "auto",
    format: Annotated[
        Literal["png", "jpg", "webp", "tiff"],
        Option(case_sensitive=False, help="File type of the results."),
    ] = "png",
    quality: Quality = 95,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
    as_json: JsonDocument = False,
) -> None:
    """Upscale many images with several processes, or on a Ray cluster.

    Existing results are skipped, so the same command resumes a stopped job. Images whose worker is killed are retried;
    a failed image does not stop the job. DST/report.parquet lists the outcome of every image.

        linearsr batch photos/ -o large/
        linearsr batch 's3://bucket/set-*.tar' -o s3://bucket/large --shards --address auto
    """
    with needing("linearsr batch", "batch"):
        from linearsr.bulk.plan import make_plan
        from linearsr.bulk.report import Report
        from linearsr.bulk.run import Cluster, results

    with told():  # any exception: each storage backend raises its own kinds
        plan = make_plan(source, output, f".{format}", shards=shards, overwrite=overwrite)
        report = Report(plan.places.target)
    asked = {"model": model, "device": device, "dtype": dtype, "quality": quality, "max_pixels": max_pixels}
    if plan.done and not plan.todo:
        say(f"nothing to do: all {len(plan.done)} results exist (--overwrite replaces them)")
    else:
        say(f"{len(plan.todo)} image{'s' * (len(plan.todo) != 1)} to do, {len(plan.done)} done already")
    where = Cluster(address, workers, threads, use_gpu=device in ("auto", "cuda"))
    with (
        BulkProgress(len(plan)) as progress,
        closing(results(plan, asked | settings, where, progress.killed)) as rows,
    ):
        _follow(rows, report, progress)
        failed = progress.counts["failed"]
        if failed > _FAILURES_SHOWN:
            say(f"and {failed - _FAILURES_SHOWN} more failures: see the report")
        say(f"{progress.summary()}; report: {shown(report.url)}")
        if as_json:
            write_json({**progress.record(), "report": report.url})
    if failed:
        raise typer.Exit(FAILED)


def _follow(rows: "Iterable[Result]", report: "Report", progress: "BulkProgress") -> None:
    """Add all results to the report and the progress. The report is written even after an error or Ctrl-C."""
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


class BulkProgress(Bars):
    """A count of the results of `total` images: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self.counts: Counter[Status] = Counter()
        self._total, self._killed = total, 0
        self._started = self._told = time.monotonic()
        self._first: float | None = None
        self._task = self.bars.add_task("images", total=total)

    def add(self, row: "Result") -> None:
        """Count one result: done, skipped or failed. Prints the first failures."""
        self.counts[row["status"]] += 1
        now = time.monotonic()
        if row["status"] != "skipped" and self._first is None:
            self._first = self._told = now
        if row["status"] == "failed" and self.counts["failed"] <= _FAILURES_SHOWN:
            say(f"{shown(row['input'])}: {shown(row['error'] or '')}")
        self.bars.advance(self._task)
        if self.bars.disable and now - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = now
            say(f"{self.counts.total()} of {self._total} images done")

    def killed(self) -> None:
        """Count a worker process that was killed, and say so."""
        self._killed += 1
        say("a worker process was killed, possibly out of memory: its images are retried")

    def summary(self) -> str:
        """Return the counts, the time and the rate as one line."""
        parts = summary(self.counts, self._total)
        parts += f", {self._killed} worker{'s' * (self._killed != 1)} killed" if self._killed else ""
        found = self.record()
        rate = found["images_per_second"]
        return f"{parts} in {found['seconds']:.0f} s" + (f" ({rate:.3g} images/s)" if rate else "")

    def record(self) -> dict[str, Any]:
        """Return the counts, the time and the rate."""
        # the rate counts from the first image, because workers take a while to start
        now, worked = time.monotonic(), self.counts["done"] + self.counts["failed"] - 1
        rate = None if self._first is None or worked < 1 else worked / max(now - self._first, 1e-3)
        return {
            "total": self._total,
            **{status: self.counts[status] for status in ("done", "skipped", "failed")},
            "workers_killed": self._killed,
            "seconds": round(now - self._started, 3),
            "images_per_second": rate and round(rate, 4),
        }
