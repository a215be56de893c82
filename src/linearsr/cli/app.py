"""The command `linearsr`. What a command needs beyond its own options is imported when it runs."""

if __name__ == "__main__":
    from linearsr.cli.interrupts import stand_by

    stand_by()

import inspect
import io
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from linearsr._version import __version__
from linearsr.cli.batch import batch
from linearsr.cli.bench import bench
from linearsr.cli.console import EPILOG, INTERRUPTED, lost_output
from linearsr.cli.convert import convert
from linearsr.cli.degrade import degrade
from linearsr.cli.evaluate import evaluate
from linearsr.cli.info import info
from linearsr.cli.interrupts import hand_over
from linearsr.cli.knee import knee
from linearsr.cli.partition import partition
from linearsr.cli.serve import serve
from linearsr.cli.shard import shard
from linearsr.cli.study import study
from linearsr.cli.tag import tag
from linearsr.cli.train import train
from linearsr.cli.upscale import upscale
from linearsr.runtime.allocator import keep_freed_memory

app = typer.Typer(
    name="linearsr",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    upscale,
    batch,
    tag,
    info,
    shard,
    train,
    knee,
    partition,
    degrade,
    bench,
    convert,
    study,
    serve,
    evaluate,
):
    # a paragraph as one line: Typer would keep the line breaks of the source
    words = "\n\n".join(
        " ".join(part.split()) for part in inspect.cleandoc(command.__doc__ or "").split("\n\n")
    )
    app.command("eval" if command is evaluate else None, epilog=EPILOG, help=words)(command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"linearsr {__version__}")
        raise typer.Exit


@app.callback()
def linearsr(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Photorealistic image super-resolution with linear attention."""


def main() -> None:
    """Run the command that was typed."""
    # Threads that wait for each other by spinning make a busy machine ten times slower. OpenMP reads this with torch.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        # a name that the terminal's encoding has not is better escaped than the end of the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        hand_over()
        try:
            app()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.filename is not None:
            raise
        lost_output(error)


def _terminate(number: int, frame: object) -> NoReturn:
    # as an exception, so that a file in work is removed
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
