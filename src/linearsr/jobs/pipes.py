"""`-` as an image from stdin and a result to stdout: both are files in a folder that is removed at the end."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from linearsr.images.files import suffix_for
from linearsr.jobs.names import Job


@dataclass(frozen=True)
class Pipes:
    """Inputs and output as paths; `source`: the file with what came from stdin; `to_stdout`: where the result goes."""

    names: Sequence[str]
    output: Path | None
    source: Path | None = None
    to_stdout: bool = False

    def called(self, job: Job) -> Job:
        """A job under the names that the user knows."""
        return replace(
            job,
            name="-" if job.input == self.source else job.name,
            output_name="-" if self.to_stdout else job.output_name,
        )


@contextmanager
def piped(names: Sequence[str], output: Path | None) -> Iterator[Pipes]:
    """Inputs and output, with files in the place of `-`; without an output, stdin alone goes to stdout.

    Raises:
        ValueError: several results for stdout, none for stdin, or a terminal on either side.
    """
    to_stdout = str(output) == "-" or (output is None and list(names) == ["-"])
    if "-" not in names and not to_stdout:
        yield Pipes(names, output)
        return
    if to_stdout and (len(names) != 1 or Path(names[0]).is_dir()):
        raise ValueError("-o - can write only one image: give a folder for several inputs")
    if to_stdout and sys.stdout.isatty():
        raise ValueError("-o - would write an image to the terminal: send stdout to a file or a program")
    if "-" in names and output is None and not to_stdout:
        raise ValueError("stdin has no folder for its result: add -o")
    if "-" in names and sys.stdin.isatty():
        raise ValueError(
            "- reads an image from stdin, which is the terminal: send a file or a program's output"
        )
    with TemporaryDirectory(prefix="linearsr-") as folder:
        source = _from_stdin(Path(folder)) if "-" in names else None
        files = [str(source) if name == "-" else name for name in names]
        yield Pipes(files, Path(folder, "result") if to_stdout else output, source, to_stdout)


def _from_stdin(folder: Path) -> Path:
    path = folder / "stdin"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    with path.open("rb") as file:
        suffix = suffix_for(file.read(12))
    return path.rename(path.with_suffix(suffix))
