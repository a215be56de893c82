"""Runs the jobs of a command: shows their progress, reports them, and ends the command."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from linearsr.cli.console import FAILED, INTERRUPTED, BatchProgress, say, stop, summary, write_json
from linearsr.images.files import tell_others
from linearsr.jobs.messages import shown
from linearsr.jobs.names import Job
from linearsr.jobs.run import Work, run_job
from linearsr.jobs.sources import Source, find_sources, folders_of, split_results

_HEAD: dict[str, Any] = dict.fromkeys(("input", "output", "status", "size", "seconds")) | {"warnings": []}


def inputs_of(
    names: Sequence[str], folder: Path | None = None, suffix: str | None = None, *, by_name: bool = True
) -> list[Source]:
    """Return the named inputs without those in `folder` and results of earlier runs; say what is left out."""
    inputs, results = split_results(find_sources(names, folder), suffix, by_name=by_name)
    if results:
        say(f"skipped as results of earlier runs: {len(results)}, such as {shown(results[0].path.name)}")
    if others := tell_others(map(Path, folders_of(names, folder)), folder):
        say(others)
    return inputs


def run_all(
    jobs: Sequence[Job],
    work: Work,
    *,
    overwrite: bool = False,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Run all jobs and end the command: status 0, 1 if some failed, 130 on Ctrl-C.

    With `as_json`, each job prints one line to stdout: input, output, status, size, seconds, warnings, the
    `settings`, and error (null if there is none). Messages for people go to stderr.
    """
    counts: Counter[str] = Counter()
    try:
        with BatchProgress(len(jobs)) as progress:
            for job in jobs:
                record = run_job(job, work, progress, overwrite)
                counts[record["status"]] += 1
                progress.finish_image()
                if as_json:
                    name = job.name or os.fspath(job.input)
                    write_json({**_HEAD, **settings, "error": None, **record, "input": name})
    except KeyboardInterrupt:
        stop(f"interrupted; {summary(counts, len(jobs))}", INTERRUPTED)
    if len(jobs) > 1:
        say(summary(counts, len(jobs)))
    if counts["failed"]:
        raise typer.Exit(FAILED)
