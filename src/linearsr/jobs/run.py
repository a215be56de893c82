"""Run a job and report it as a record: skip it if its result exists, and turn a failure into one line."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linearsr.jobs.messages import (
    by_option,
    debugging,
    heard,
    one_line,
    reason,
    shown,
    shown_words,
    warning_text,
)
from linearsr.jobs.names import Job


class Watcher:
    """The receiver of messages and progress of a run. This base class ignores them all."""

    def say(self, line: str) -> None:
        """Show a line to the user."""

    def start_image(self, path: Path, steps: int | None = None) -> None:
        """Begin the next image, which takes `steps` steps; None if that is not known."""

    def finish_step(self, step: int, steps: int) -> None:
        """Report that `step` of the `steps` steps of the current image are done."""

    def show_share(self, path: Path, doing: str, share: float) -> None:
        """Report what is being done for the current image, and the share of its work that is done, 0 to 1."""


Work = Callable[[Job, Watcher], dict[str, Any]]
"""A function that does a job: (job, watcher) -> fields of its record, with "size": [width, height]."""


def pending(jobs: Sequence[Job], overwrite: bool) -> list[Job]:
    """Return the jobs that need work: no error, and a result that is missing or to be replaced."""
    return [job for job in jobs if job.error is None and (overwrite or not job.is_made)]


def no_work(job: Job, watcher: Watcher) -> dict[str, Any]:
    """Refuse work in a run for which every result existed when it began. Raises ValueError: always."""
    raise ValueError("its result was removed in the meantime: run the command again")


def run_job(job: Job, work: Work, watcher: Watcher, overwrite: bool = False) -> dict[str, Any]:
    """Run a job, tell the watcher the outcome, and return its record: done, skipped, or failed.

    Without `overwrite`, a result that exists is kept. Another run may work on the same folder, so this is
    checked right before the work and once more after a failure.
    """
    if job.error is not None:
        return _failed(job, job.error, watcher)
    if job.is_made and not overwrite:
        if os.path.isdir(job.output or ""):
            return _failed(job, f"{job.output_label} is a folder: choose another place with -o", watcher)
        return _skipped(job, "exists (--overwrite replaces it)", watcher)
    started = time.perf_counter()
    try:
        with heard() as notes:
            result = work(job, watcher)
    except Exception as error:
        if job.is_made and not overwrite:
            return _skipped(job, "was created by another run in the meantime", watcher)
        if debugging():
            raise
        return _failed(job, by_option(reason(error, job.output or job.input)), watcher)
    said = list(dict.fromkeys(_without_name(job, warning_text(note)) for note in notes))
    for warning in said:
        watcher.say(f"{job.label}: warning: {warning}")
    seconds = time.perf_counter() - started
    record = {"status": "done", **result, "seconds": round(seconds, 3), "warnings": said}
    if job.output is not None:
        record["output"] = job.output_name or str(job.output)
        width, height = result["size"]
        tags = f", tags: {shown_words(result['tags'])}" if result.get("tags") else ""
        watcher.say(f"{job.label} -> {job.output_label} ({width}x{height}, {seconds:.1f} s{tags})")
    return record


def write_out(work: Work, stream: Any) -> Work:
    """Wrap `work` so that the result is also written to a binary stream."""

    def do(job: Job, watcher: Watcher) -> dict[str, Any]:
        result = work(job, watcher)
        assert job.output is not None
        try:
            with job.output.open("rb") as file:
                shutil.copyfileobj(file, stream)
            stream.flush()
        except OSError:
            job.output.unlink()
            raise
        return result

    return do


def _skipped(job: Job, why: str, watcher: Watcher) -> dict[str, Any]:
    watcher.say(f"{job.label}: skipped, {job.output_label} {why}")
    return {"status": "skipped", "output": job.output_name or str(job.output)}


def _failed(job: Job, why: object, watcher: Watcher) -> dict[str, Any]:
    message = _without_name(job, one_line(why))
    watcher.say(f"{job.label}: {message}")
    return {"status": "failed", "error": message}


def _without_name(job: Job, message: str) -> str:
    """Remove the file's name from the start of a message, as the line begins with the job's label anyway."""
    for name in (shown(job.input), shown(job.input.name)):
        message = message.removeprefix(f"{name}: ")
    if job.output_name:
        message = message.removeprefix(f"{shown(job.output or '')}: ")
    return message
