"""What the commands say: results on stdout, everything else on stderr, one line for each thing."""

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
"""Exit status: some inputs failed; the command could not be carried out as given; Ctrl-C."""

EPILOG = (
    "Exit status: 0 success, 1 some inputs failed (each is named, the rest are done), 2 wrong usage, 130 interrupted. "
    f"{DEBUG_VARIABLE}=1 shows the traceback of an error."
)


@cache
def console() -> "Console":
    """The console on stderr, made when something is first said: `rich` takes a while to import."""
    from rich.console import Console

    return Console(stderr=True)


def out() -> "Console":
    """The console on stdout, for tables and lines as they are: no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def table(*columns: str, numbers: int | None = None, ruled: bool = False) -> "Table":
    """A table with these heads; `numbers`: the first column of those to the right edge; `ruled`: with a frame."""
    from rich.box import HEAVY_HEAD, SIMPLE_HEAD
    from rich.table import Table

    made = Table(*columns, box=HEAVY_HEAD if ruled else SIMPLE_HEAD, pad_edge=ruled)
    for column in made.columns[len(columns) if numbers is None else numbers :]:
        column.justify, column.no_wrap = "right", True
    return made


def say(line: str) -> None:
    """Write one line to stderr, as it is: no markup, no wrapping."""
    console().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def say_unknown(tags: list[str]) -> None:
    """Warn of words that are no tags of the model."""
    if tags:
        say(f"warning: ignored tags, unknown to the model or too many: {shown_words(tags)}")


@cache
def say_warnings() -> None:
    """From now on, say what the library warns of."""
    logging.getLogger("linearsr").addHandler(_Saying())


class _Saying(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Say it as one line."""
        say(f"linearsr: {one_line(record.getMessage())}")


def stop(message: object, status: int = WRONG_USE) -> NoReturn:
    """Say one line and end the command with `status`."""
    say(f"linearsr: {one_line(message)}")
    raise typer.Exit(status)


@contextmanager
def told(*kinds: type[Exception], begin: str = "", status: int = WRONG_USE) -> Iterator[None]:
    """End the command with one line for an error of these kinds (all, if none is given), which begins with `begin`."""
    kinds = kinds or (Exception,)
    try:
        yield
    except typer.Exit:
        raise  # which is a RuntimeError, too
    except kinds as error:
        if debugging():
            raise
        stop(begin + failure(error), status)


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """End the command with one line where `what` needs a package that is not there and comes with an extra."""
    try:
        yield
    except ImportError as error:
        if debugging():
            raise
        stop(f"{what} needs {error.name}: pip install 'linearsr[{extra}]'")


def summary(counts: Mapping[Any, int], total: int) -> str:
    """How many of `total` images are done, skipped, failed and none of these."""
    statuses = ("done", "skipped", "failed", "not finished")
    counts = {**counts, statuses[-1]: total - sum(counts.values())}
    return ", ".join(f"{counts[s]} {s}" for s in statuses if counts.get(s)) or "nothing done"


@contextmanager
def doing(what: str, logged: bool = False) -> Iterator[None]:
    """Show on a terminal what takes a while; where there is none, it is a line of the log if it is `logged`."""
    if not console().is_terminal:
        if logged:
            say(what)
        yield
        return
    with console().status(what):
        yield


def lost_output(error: OSError) -> NoReturn:
    """End the program after a failure of stdout, which Python would try to write to once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    say(f"linearsr: cannot write to stdout: {error.strerror}")
    sys.exit(FAILED)


def write_json(record: dict[str, Any]) -> None:
    """One JSON document on one line of stdout, at once, so that a script can follow."""
    try:
        typer.echo(json.dumps(record, allow_nan=False))
    except OSError as error:
        lost_output(error)


class Bars:
    """Bars of progress for the time of a block; nothing where stderr is no terminal."""

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
    """A bar for the images and one for the image in work."""

    def __init__(self, total: int) -> None:
        super().__init__()
        self._images = self.bars.add_task("images", total=total)
        self._steps = self.bars.add_task("", total=None, visible=False)

    def say(self, line: str) -> None:
        """On stderr."""
        say(line)

    def start_image(self, path: Path, steps: int | None = None) -> None:
        """Show that the next image is in work, and how many steps it takes if that is known."""
        self.bars.reset(self._steps, total=steps, description=shown(path.name), visible=True)

    def finish_step(self, step: int, steps: int) -> None:
        """So many steps of the image in work are done, of all that it takes."""
        self.bars.update(self._steps, completed=step, total=steps)

    def show_share(self, path: Path, doing: str, share: float) -> None:
        """What is being done for the image in work, and the share of all its work that is done, 0 to 1."""
        label = f"{shown(path.name)}: {doing}"
        self.bars.update(self._steps, total=100, completed=int(100 * share), description=label)

    def finish_image(self) -> None:
        """One image is done, skipped or failed."""
        self.bars.advance(self._images)
