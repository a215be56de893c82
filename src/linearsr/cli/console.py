"""Output of the commands: results go to stdout, everything else to stderr, one line per message."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from linearsr.jobs.messages import DEBUG_VARIABLE, debugging, failure, one_line, shown, shown_words
from linearsr.jobs.run import Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from typing_extensions import Self

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
"""Exit statuses: some inputs failed; the command could not run as given; interrupted by Ctrl-C."""

EPILOG = (
    "Exit status: 0 success, 1 some inputs failed (each is named, the rest are done), 2 wrong usage, 130 interrupted. "
    f"{DEBUG_VARIABLE}=1 shows the traceback of an error."
)


@cache
def console() -> "Console":
    """Return the console on stderr. It is created on first use, because `rich` takes a while to import."""
    from rich.console import Console

    return Console(stderr=True)


def out() -> "Console":
    """Return a console on stdout, for tables and lines without markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str, numbers: int | None = None, ruled: bool = False) -> "Table":
    """Return an empty table: columns from index `numbers` on align to the right, `ruled` adds a frame."""
    from rich.box import HEAVY_HEAD, SIMPLE_HEAD
    from rich.table import Table

    made = Table(*columns, box=HEAVY_HEAD if ruled else SIMPLE_HEAD, pad_edge=ruled)
    for column in made.columns[len(columns) if numbers is None else numbers :]:
        column.justify, column.no_wrap = "right", True
    return made


def say(line: str) -> None:
    """Write one line to stderr, without markup or wrapping."""
    console().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say_unknown(tags: list[str]) -> None:
    """Warn about tags that the model does not know, or that exceed its maximum number."""
    if tags:
        say(f"warning: ignored tags, unknown to the model or too many: {shown_words(tags)}")


@cache
def say_warnings() -> None:
    """Print warnings of the library to stderr from now on."""
    logging.getLogger("linearsr").addHandler(_Saying())


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print the record as one line."""
        say(f"linearsr: {one_line(record.getMessage())}")


def stop(message: object, status: int = WRONG_USE) -> NoReturn:
    """Print one line and end the command with `status`."""
    say(f"linearsr: {one_line(message)}")
    raise typer.Exit(status)


@contextmanager
def told(*kinds: type[Exception], begin: str = "", status: int = WRONG_USE) -> Iterator[None]:
    """End the command with one line, starting with `begin`, on an error of these kinds (by default any)."""
    kinds = kinds or (Exception,)
    try:
        yield
    except typer.Exit:
        raise  # typer.Exit is a RuntimeError, too
    except kinds as error:
        if debugging():
            raise
        stop(begin + failure(error), status)


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """End the command with one line if `what` needs a missing package, which the extra `extra` installs."""
    try:
        yield
    except ImportError as error:
        if debugging():
            raise
        stop(f"{what} needs {error.name}: pip install 'linearsr[{extra}]'")


def summary(counts: Mapping[Any, int], total: int) -> str:
    """Return a line with how many of `total` images are done, skipped, failed and not finished."""
    statuses = ("done", "skipped", "failed", "not finished")
    counts = {**counts, statuses[-1]: total - sum(counts.values())}
    return ", ".join(f"{counts[s]} {s}" for s in statuses if counts.get(s)) or "nothing done"


@contextmanager
def doing(what: str, logged: bool = False) -> Iterator[None]:
    """Show `what` on a terminal while the block runs; without a terminal, print it as a line if `logged`."""
    if not console().is_terminal:
        if logged:
            say(what)
        yield
        return
    with console().status(what):
        yield


def lost_output(error: OSError) -> NoReturn:
    """End the program after a failed write to stdout."""
    # Python flushes stdout once more at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    say(f"linearsr: cannot write to stdout: {error.strerror}")
    sys.exit(FAILED)


def write_json(record: dict[str, Any]) -> None:
    """Write one JSON document as a line to stdout and flush it, so that scripts can read along."""
    try:
        typer.echo(json.dumps(record, allow_nan=False))
    except OSError as error:
        lost_output(error)


class Bars:
    """A context manager that shows progress bars on stderr, if that is a terminal."""

    def __init__(self, *, transient: bool = True) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        columns = MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), text
        disable = not console().is_terminal
        self.bars = Progress(*columns, console=console(), transient=transient, disable=disable)

    def __enter__(self) -> "Self":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()


class BatchProgress(Bars, Watcher):
    """Two progress bars: one counts the images, the other follows the current image."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._images = self.bars.add_task("images", total=total)
        self._steps = self.bars.add_task("", total=None, visible=False)

    def say(self, line: str) -> None:
        """Print a line to stderr."""
        say(line)

    def start_image(self, path: Path, steps: int | None = None) -> None:
        """Show that work on the next image begins; `steps` is its number of steps, None if unknown."""
        self.bars.reset(self._steps, total=steps, description=shown(path.name), visible=True)

    def finish_step(self, step: int, steps: int) -> None:
        """Show that `step` of the `steps` steps of the current image are done."""
        self.bars.update(self._steps, completed=step, total=steps)

    def show_share(self, path: Path, doing: str, share: float) -> None:
        """Show what is being done for the current image, and the share of its work that is done, 0 to 1."""
        label = f"{shown(path.name)}: {doing}"
        self.bars.update(self._steps, total=100, completed=int(100 * share), description=label)

    def finish_image(self) -> None:
        """Count one image as finished: done, skipped or failed."""
        self.bars.advance(self._images)
