"""The command `linearsr`. A subcommand is imported when it is named, and its dependencies when it runs."""

if __name__ == "__main__":
    from linearsr.cli.start import main as start

    start()

import inspect
import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from linearsr._version import __version__
from linearsr.cli.console import EPILOG, INTERRUPTED, lost_output
from linearsr.cli.start import hand_over
from linearsr.runtime.allocator import keep_freed_memory

COMMANDS = {
    **{name: name for name in ("upscale", "batch", "serve", "tag", "info", "convert")},
    "eval": "evaluate",
    **{name: name for name in ("bench", "study", "degrade", "shard", "train", "knee", "partition")},
}
"""The module of each command, which is also the name of its function, in the order of the help."""
_CONTEXT = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """The group of commands. It imports each one on request, so that no command waits for the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            # load all commands, so that Click can suggest similar names
            for each in COMMANDS:
                self.get_command(ctx, each)
        elif cmd_name not in self.commands:
            name = COMMANDS[cmd_name]
            function = getattr(import_module(f"linearsr.cli.{name}"), name)
            text, _, examples = inspect.cleandoc(function.__doc__).partition("\n\n    ")
            # join the lines of a paragraph, because Typer would keep the line breaks of the source
            words = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
            lines = [f"  {line.strip()}" for line in examples.splitlines()]
            epilog = "\n\n".join([*(["Examples:", *lines, ""] if lines else []), EPILOG])
            alone = typer.Typer(add_completion=False, context_settings=_CONTEXT)
            alone.command(cmd_name, help=words, epilog=epilog)(function)
            self.commands[cmd_name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)


app = typer.Typer(
    name="linearsr",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"linearsr {__version__}")
        raise typer.Exit


@app.callback()
def linearsr(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Photorealistic image super-resolution with linear attention."""


def main() -> None:
    """Run the command given on the command line."""
    # OpenMP threads that spin while they wait make a busy machine ten times slower; `import torch` reads it
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    for stream in (sys.stdout, sys.stderr):
        # escape characters that the terminal's encoding lacks, instead of ending the run with an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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
