"""Do jobs one after the other: skip what is done, name what fails, go on with the rest, and report each as a record."""

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
    """Who is told how a run goes. This one tells nobody."""

    def say(self, line: str) -> None:
        """Something that a person should read."""

    def start_image(self, path: Path, steps: int | None = None) -> None:
        """The next image is in work, and how many steps it takes if that is known."""

    def finish_step(self, step: int, steps: int) -> None:
        """So many steps of the image in work are done, of all that it takes."""

    def show_share(self, path: Path, doing: str, share: float) -> None:
        """What is being done for the image in work, and the share of all its work that is done, 0 to 1."""


Work = Callable[[Job, Watcher], dict[str, Any]]
"""(job, watcher) -> what is to be reported of the result, with "size": [width, height]."""


def pending(jobs: Sequence[Job], overwrite: bool) -> list[Job]:
    """The jobs that need any work."""
    return [job for job in jobs if job.error is None and (overwrite or not job.is_made)]


def no_work(job: Job, watcher: Watcher) -> dict[str, Any]:
    """For a run in which nothing needed doing when it began."""
    raise ValueError("its result was removed in the meantime: run the command again")


def run_job(job: Job, work: Work, watcher: Watcher, overwrite: bool = False) -> dict[str, Any]:
    """The record of a job: done, skipped, or failed for whatever reason. Says the outcome.

    Another run may work on the same folder, so that it is asked here, and once more after a failure, whether the result
    is there; `overwrite` replaces it.
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
    """Work whose result is also written to a binary stream."""

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
    """The message without the file's name in front, which the line begins with anyway, or with that of a pipe."""
    for name in (shown(job.input), shown(job.input.name)):
        message = message.removeprefix(f"{name}: ")
    if job.output_name:
        message = message.removeprefix(f"{shown(job.output or '')}: ")
    return message
