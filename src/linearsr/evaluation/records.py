"""Measurements on disk: a CSV file that grows line by line, so that a stopped evaluation goes on where it was."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from linearsr.runtime.files import whole_file

PER_IMAGE, SUMMARY = "per_image.csv", "summary.json"


class RecordsError(ValueError):
    """The folder holds measurements that cannot be gone on with; one line."""


@dataclass(frozen=True)
class Row:
    """What was measured of one image."""

    name: str
    values: dict[str, float | None]
    """By metric; None: could not be measured, and a line of `note` says why."""
    note: str
    fingerprint: str
    """Of the files that were measured."""


@dataclass
class Records:
    """The rows of an evaluation by image name, in a folder or (`folder` None) in memory alone.

    A context manager, at whose end another process may use the folder.
    """

    folder: Path | None
    metrics: Sequence[str]
    rows: dict[str, Row] = field(default_factory=dict)
    _lock: FileLock | None = None

    @classmethod
    def open(
        cls, folder: Path | None, metrics: Sequence[str], settings: dict[str, Any], overwrite: bool = False
    ) -> "Records":
        """Begin, or go on with what is there.

        Args:
            folder: where the files are; made if need be.
            metrics: columns of the table.
            settings: what the values depend on beside the files that are measured.
            overwrite: forget what is there.

        Raises:
            RecordsError: what is there was measured with other settings, or is not from here, or another process
                writes there.
        """
        records = cls(folder, metrics)
        if folder is None:
            return records
        folder.mkdir(parents=True, exist_ok=True)
        records._lock = _locked(folder)
        try:
            records._begin(folder, settings, overwrite)
        except BaseException:
            records._lock.release()
            raise
        return records

    def _begin(self, folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
        table, summary = folder / PER_IMAGE, folder / SUMMARY
        if overwrite:
            for file in (table, summary):
                file.unlink(missing_ok=True)
        if table.exists():
            _check_settings(summary, settings)
            self.rows = self._read(table)
        _write_json(summary, {"settings": settings, "complete": False})
        # anew: the last line of a killed run may be half a line
        self._write(list(self.rows.values()))

    def __enter__(self) -> "Records":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()

    def add(self, row: Row) -> None:
        """Keep a row, at once on disk too."""
        self.rows[row.name] = row
        if self.folder is not None:
            with (self.folder / PER_IMAGE).open(
                "a", newline="", encoding="utf-8", errors="surrogateescape"
            ) as file:
                csv.writer(file).writerow(self._cells(row))

    def finish(self, names: Sequence[str], summary: dict[str, Any]) -> None:
        """Leave the rows of these images, in this order, and write the summary."""
        self.rows = {name: self.rows[name] for name in names if name in self.rows}
        if self.folder is not None:
            self._write(list(self.rows.values()))
            _write_json(self.folder / SUMMARY, summary)

    @property
    def _header(self) -> list[str]:
        return ["image", *self.metrics, "note", "fingerprint"]

    def _cells(self, row: Row) -> list[str]:
        values = (row.values.get(name) for name in self.metrics)
        return [row.name, *("" if v is None else repr(v) for v in values), row.note, row.fingerprint]

    def _write(self, rows: Sequence[Row]) -> None:
        assert self.folder is not None
        with (
            whole_file(self.folder / PER_IMAGE) as part,
            part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file).writerows([self._header, *map(self._cells, rows)])

    def _read(self, table: Path) -> dict[str, Row]:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
        if header != self._header:
            raise RecordsError(
                f"{table}: has other columns than this evaluation: choose another -o, or --overwrite"
            )
        rows: dict[str, Row] = {}
        for line in lines:
            if len(line) != len(header):
                continue
            name, *cells, note, fingerprint = line
            try:
                values = [float(cell) if cell else None for cell in cells]
            except ValueError:
                continue
            rows[name] = Row(name, dict(zip(self.metrics, values, strict=True)), note, fingerprint)
        return rows


def _locked(folder: Path) -> FileLock:
    """Two processes in one folder would write over each other. The lock of a killed one is free."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RecordsError(
            f"{folder}: another evaluation writes there: wait for its end, or choose another -o"
        ) from None
    return lock


def _write_json(path: Path, contents: dict[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")


def _check_settings(summary: Path, settings: dict[str, Any]) -> None:
    try:
        known = json.loads(summary.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RecordsError(
            f"{summary}: is missing or damaged beside {PER_IMAGE}: choose another -o, or --overwrite"
        ) from None
    for key in sorted(settings.keys() | known.keys()):
        if settings.get(key) != known.get(key):
            raise RecordsError(
                f"{summary.parent}: was measured with {key} {_said(known.get(key))}, not {_said(settings.get(key))}: "
                "choose another -o, or --overwrite"
            )


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
