"""Passes over a picture, one behind the other: what is finished is not done again, in this process or the next."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.runtime.checkpoints import write_json
from linearsr.streaming.buffers import Buffer, FileBuffer, MemoryBuffer

STATE = "state.json"
_ENDING = ".rows"

Progress = Callable[[str, float], None]
"""(what is being done, share of the whole work that is done, 0 to 1)"""
Report = Callable[[float], None]
"""(share of this pass that is done)"""
Body = Callable[[Tensor | None, Report], Tensor | None]
"""(sums that the pass before left, report) -> sums for the next pass, or None."""


class Work:
    """Buffers, and a list of the finished passes beside them.

    Args:
        folder: for buffers in files and for `state.json`, from which a killed run goes on; None: buffers in memory.
        run: what the work is for; a folder with the state of another run is refused.

    Raises:
        ValueError: the folder holds another run, or something else.
    """

    def __init__(self, folder: Path | None, run: Mapping[str, Any], progress: Progress | None = None) -> None:
        self._folder = folder
        self._run = json.loads(json.dumps(run))
        self._cost, self._spent = 1.0, 0.0
        self._progress = progress or (lambda label, share: None)
        self._buffers: dict[str, Buffer] = {}
        self._finished: list[str] = []
        self._total: Tensor | None = None
        self._rows = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(folder / STATE)

    def expect(self, cost: float) -> None:
        """Say what all passes together will cost, in any unit."""
        self._cost = cost

    def buffer(self, name: str, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> Buffer:
        """The buffer `name`; in a folder with what an earlier process wrote into it."""
        if name not in self._buffers:
            self._buffers[name] = (
                MemoryBuffer(rows, shape, dtype)
                if self._folder is None
                else FileBuffer(self._folder / f"{name}{_ENDING}", rows, shape, dtype)
            )
        return self._buffers[name]

    def drop(self, name: str) -> None:
        """Free a buffer that no pass reads any more."""
        buffer = self._buffers.pop(name, None)
        if buffer is not None:
            buffer.close()
        if self._folder is not None:
            (self._folder / f"{name}{_ENDING}").unlink(missing_ok=True)

    def do(self, name: str, label: str, cost: float, body: Body) -> None:
        """A pass, unless it is finished."""
        if name not in self._finished:
            total = body(self._total, lambda share: self._report(label, share * cost))
            self._finished.append(name)
            self._total, self._rows = total, 0
            self._save()
        self._spent += cost
        self._report(label, 0)

    def end(self, label: str, cost: float, body: Body) -> None:
        """The last pass, whose rows go elsewhere: it is done again if the process ends before its files are removed."""
        body(self._total, lambda share: self._report(label, share * cost))
        self.remove()

    @property
    def rows_done(self) -> int:
        """Rows of the unfinished pass that an earlier process finished."""
        return self._rows

    def keep_rows(self, rows: int) -> None:
        """Note that so many rows of this pass are finished."""
        self._rows = rows
        self._save()

    def close(self) -> None:
        """Let go of all buffers; files stay."""
        for buffer in self._buffers.values():
            buffer.close()

    def remove(self) -> None:
        """Remove what was written into the folder, and the folder if nothing else is in it."""
        self.close()
        if self._folder is None:
            return
        # the state first: without it, files that are left mean nothing
        for path in (self._folder / STATE, *self._folder.glob(f"*{_ENDING}")):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _report(self, label: str, cost: float) -> None:
        self._progress(label, min(1.0, (self._spent + cost) / self._cost))

    def _load(self, path: Path) -> None:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            run, finished, total, rows = (state[key] for key in ("run", "finished", "total", "rows"))
        except FileNotFoundError:
            self._save()
            return
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}: damaged; remove the work folder") from None
        if run != self._run:
            differing = [key for key in self._run if run.get(key) != self._run[key]]
            raise ValueError(
                f"{path.parent}: holds the unfinished work of another run (another {', '.join(differing)}): "
                "give the same settings, or remove the folder"
            )
        self._finished, self._rows = finished, rows
        self._total = None if total is None else torch.tensor(total, dtype=torch.float64)

    def _save(self) -> None:
        if self._folder is None:
            return
        total = None if self._total is None else self._total.tolist()
        state = {"run": self._run, "finished": self._finished, "total": total, "rows": self._rows}
        write_json(self._folder / STATE, state)
