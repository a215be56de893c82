"""Do jobs, show how far they are, report them, and end the command."""

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
    """What is to be done: all that is named but `folder` and results of earlier runs. Tells what is left out."""
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
    """Do all jobs and end the command: with status 0, or 1 if some failed, or 130 on Ctrl-C.

    With `as_json` every job gives a line on stdout: input, output, status, size, seconds, warnings, the `settings` and
    an error, null where there is none. Everything said to people goes to stderr.
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
