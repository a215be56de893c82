"""The hidden folder in which work on a large picture waits, and what it is work on."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linearsr._version import __version__
from linearsr.runtime.checkpoints import write_json

_JOB, _LOCK = "job.json", "lock"


def work_folder_of(target: Path) -> Path:
    """Where work on a result waits: beside it, so on its disk, and hidden."""
    return target.with_name(f".{target.name}.linearsr-work")


@dataclass
class FileJob:
    """Work on one result.

    `is_new`: nothing was there of it. `tags`: those that guided it, once all its rows are there; until then, None.
    """

    folder: Path
    description: dict[str, Any] = field(repr=False)
    is_new: bool = False
    tags: tuple[str, ...] | None = None

    @property
    def source(self) -> str:
        """What the rows come from, as text."""
        return json.dumps(self.description["source"])

    def finish_rows(self, tags: Sequence[str]) -> None:
        """Note that all rows are there."""
        self.tags = tuple(tags)
        self._save()

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self) -> None:
        write_json(self.folder / _JOB, {**self.description, "tags": self.tags})


@contextmanager
def file_job(source: Path, target: Path, settings: Mapping[str, Any]) -> Iterator[FileJob]:
    """Work on `target`, for this process alone: what an earlier one left of the same work, else an empty folder.

    Raises:
        ValueError: another process has it in work.
        OSError: there is no such source, or no folder can be made there.
    """
    from filelock import FileLock, Timeout

    folder = work_folder_of(target)
    state = source.stat()
    description = {
        "source": [os.path.realpath(source), state.st_size, state.st_mtime_ns],
        "settings": dict(settings),
        "version": __version__,
    }
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{target}: another process has it in work: wait for its end") from None
    try:
        job = FileJob(folder, description)
        before = _read(folder / _JOB)
        tags = before.pop("tags", None)
        if before == json.loads(json.dumps(description)):
            job.tags = None if tags is None else tuple(tags)
        else:
            _empty(folder)
            job.is_new = True
            job._save()
        yield job
    finally:
        lock.release()


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError):
        contents = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(contents, dict):
            return contents
    return {}


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
