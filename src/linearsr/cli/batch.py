"""Many images, one after the other: skip what is done, name what fails, go on with the rest."""

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import typer

from linearsr.cli.console import (
    FAILED,
    INTERRUPTED,
    BatchProgress,
    debugging,
    one_line,
    say,
    shown,
    shown_words,
    stop,
    write_json,
)
from linearsr.cli.inputs import Job

Status = Literal["done", "skipped", "failed"]
Work = Callable[[Job, BatchProgress], dict[str, Any]]
"""(job, progress) -> what is to be reported of the result, with "size": [width, height]."""


def no_work(job: Job, progress: BatchProgress) -> dict[str, Any]:
    """For a batch in which nothing needs doing here."""
    raise AssertionError(f"{job.input} was not to be done here")


def pending(jobs: Sequence[Job], overwrite: bool) -> list[Job]:
    """The jobs that need any work."""
    return [
        job
        for job in jobs
        if job.error is None and (overwrite or job.output is None or not os.path.lexists(job.output))
    ]


def run_batch(
    jobs: Sequence[Job],
    work: Work,
    *,
    overwrite: bool,
    as_json: bool,
    settings: dict[str, Any],
    elsewhere: Callable[[Sequence[Job]], Iterator[dict[str, Any]]] | None = None,
) -> None:
    """Do all jobs and end the command: with status 0, or 1 if some failed, or 130 on Ctrl-C.

    `elsewhere` does jobs in other processes, in the place of `work`, and yields their records in order.
    With `as_json` every job gives a line on stdout: input, output, status, size, seconds, warnings, the `settings` and
    an error, null where there is none. Everything said to people goes to stderr.
    """
    todo = pending(jobs, overwrite)
    others = elsewhere(todo) if elsewhere is not None else None
    wanted = set(todo)
    counts: Counter[Status] = Counter()
    try:
        with BatchProgress(len(jobs)) as progress:
            for job in jobs:
                if job not in wanted:
                    record = _left_out(job)
                else:
                    record = next(others) if others is not None else run_job(job, work, progress)
                counts[record["status"]] += 1
                progress.finish_image()
                if as_json:
                    write_json(
                        {
                            **_HEAD,
                            **settings,
                            **record,
                            "error": record.get("error"),
                            "input": _text(job.input),
                        }
                    )
    except KeyboardInterrupt:
        stop(f"interrupted; {_summary(counts, len(jobs))}", INTERRUPTED)
    if len(jobs) > 1:
        say(_summary(counts, len(jobs)))
    if counts["failed"]:
        raise typer.Exit(FAILED)


_HEAD: dict[str, Any] = {
    "input": None,
    "output": None,
    "status": None,
    "size": None,
    "seconds": None,
    "warnings": [],
}


def _left_out(job: Job) -> dict[str, Any]:
    if job.error is not None:
        return _failure(job.input, job.error)
    assert job.output is not None
    if os.path.isdir(job.output):
        return _failure(job.input, f"{shown(job.output)} is a folder: choose another place with -o")
    say(f"{shown(job.input)}: skipped, {shown(job.output)} exists (--overwrite does it again)")
    return {"status": "skipped", "output": _text(job.output)}


def run_job(job: Job, work: Work, progress: BatchProgress) -> dict[str, Any]:
    """The record of a job: done, or failed for whatever reason. Says the outcome."""
    started = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning)
            result = work(job, progress)
    except Exception as error:
        if debugging():
            raise
        return _failure(job.input, _reason(error, job.output or job.input))
    said = [_without_name(job.input, one_line(note.message)) for note in notes]
    for warning in said:
        say(f"{shown(job.input)}: warning: {warning}")
    seconds = round(time.perf_counter() - started, 3)
    result = {**result, "seconds": seconds, "warnings": said}
    if job.output is None:
        return {"status": "done", **result}
    width, height = result["size"]
    tags = f", tags: {shown_words(result['tags'])}" if result.get("tags") else ""
    say(f"{shown(job.input)} -> {shown(job.output)} ({width}x{height}, {seconds:.1f} s{tags})")
    return {"status": "done", "output": _text(job.output), **result}


def _failure(path: Path, reason: object) -> dict[str, Any]:
    message = _without_name(path, one_line(reason))
    say(f"{shown(path)}: {message}")
    return {"status": "failed", "error": message}


def _reason(error: Exception, output: Path) -> str:
    from linearsr.runtime.devices import is_out_of_memory

    text = one_line(error)
    if is_out_of_memory(error):
        return "not enough memory for an image of this size: make it smaller or cut it into parts"
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(str(error.filename or output))}: {error.strerror}"
    if isinstance(error, (ValueError, OSError)):
        return text
    return f"{type(error).__name__}: {text}"


def _without_name(path: Path, message: str) -> str:
    """The message without the file's name in front, which the line begins with anyway."""
    for name in (shown(path), shown(path.name)):
        message = message.removeprefix(f"{name}: ")
    return message


def _text(path: Path) -> str:
    return os.fspath(path)


def _summary(counts: Counter[Status], total: int) -> str:
    parts = [f"{counts[status]} {status}" for status in ("done", "skipped", "failed") if counts[status]]
    rest = total - counts.total()
    return ", ".join(parts + ([f"{rest} not finished"] if rest else [])) or "nothing done"
