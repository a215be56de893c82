"""Measurements on disk: a CSV file that grows line by line, so that a stopped evaluation can be resumed."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from linearsr.runtime.checkpoints import read_json, write_json
from linearsr.runtime.files import whole_file

PER_IMAGE, SUMMARY = "per_image.csv", "summary.json"
_REMEDY = "choose another -o, or --overwrite"


class RecordsError(ValueError):
    """Raised when a folder holds measurements that cannot be continued; the message is one line."""


@dataclass(frozen=True)
class Row:
    """The measurements of one image."""

    name: str
    values: dict[str, float | None]
    """Values by metric; None if it could not be measured, and a line of `note` says why."""
    note: str
    fingerprint: str
    """Hash of the measured files, see `Case.fingerprint`."""


@dataclass
class Records:
    """The rows of an evaluation by image name, in a folder, or in memory alone if `folder` is None."""

    folder: Path | None
    metrics: Sequence[str]
    rows: dict[str, Row] = field(default_factory=dict)

    def begin(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Read the rows in the folder, unless `overwrite` is set. Raises RecordsError as `open_records`."""
        if self.folder is None:
            return
        table, summary = self.folder / PER_IMAGE, self.folder / SUMMARY
        if table.exists() and not overwrite:
            _check_settings(summary, settings)
            self.rows = self._read(table)
        write_json(summary, {"settings": settings, "complete": False})
        # write the file anew, because the last line of a killed run may be incomplete
        self._write(table)

    def add(self, row: Row) -> None:
        """Add a row, and append it to the file at once."""
        self.rows[row.name] = row
        if self.folder is not None:
            with _opened(self.folder / PER_IMAGE, "a") as file:
                csv.writer(file).writerow(self._cells(row))

    def finish(self, names: Iterable[str], summary: dict[str, Any]) -> None:
        """Keep only the rows of these images, in this order, and write the summary."""
        self.rows = {name: self.rows[name] for name in names if name in self.rows}
        if self.folder is not None:
            self._write(self.folder / PER_IMAGE)
            write_json(self.folder / SUMMARY, summary)

    @property
    def _header(self) -> list[str]:
        return ["image", *self.metrics, "note", "fingerprint"]

    def _cells(self, row: Row) -> list[str]:
        values = (row.values.get(name) for name in self.metrics)
        return [row.name, *("" if v is None else repr(v) for v in values), row.note, row.fingerprint]

    def _write(self, table: Path) -> None:
        with whole_file(table) as part, _opened(part, "w") as file:
            csv.writer(file).writerows([self._header, *map(self._cells, self.rows.values())])

    def _read(self, table: Path) -> dict[str, Row]:
        with _opened(table, "r") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
        if header != self._header:
            raise RecordsError(f"{table}: has other columns than this evaluation: {_REMEDY}")
        rows: dict[str, Row] = {}
        for line in lines:
            try:
                name, *cells, note, fingerprint = line
                values = [float(cell) if cell else None for cell in cells]
                rows[name] = Row(name, dict(zip(self.metrics, values, strict=True)), note, fingerprint)
            except ValueError:  # an incomplete line
                continue
        return rows


@contextmanager
def open_records(
    folder: Path | None, metrics: Sequence[str], settings: dict[str, Any], overwrite: bool = False
) -> Iterator[Records]:
    """Open the records in `folder` and lock it for the block. Keeps existing rows unless `overwrite` is set.

    Raises RecordsError when they were measured with other `settings`, are damaged, or another process uses
    the folder.
    """
    records = Records(folder, metrics)
    with ExitStack() as stack:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                # two processes would overwrite each other; the lock of a killed process is released
                stack.enter_context(FileLock(folder / ".lock", timeout=0))
            except Timeout:
                raise RecordsError(
                    f"{folder}: another evaluation writes there: wait until it ends, or choose another -o"
                ) from None
        records.begin(settings, overwrite)
        yield records


def _opened(table: Path, mode: str) -> IO[str]:
    return table.open(mode, newline="", encoding="utf-8", errors="surrogateescape")


def _check_settings(summary: Path, settings: dict[str, Any]) -> None:
    try:
        known = dict(read_json(summary)["settings"])
    except (ValueError, KeyError, TypeError):
        raise RecordsError(f"{summary}: is missing or damaged beside {PER_IMAGE}: {_REMEDY}") from None
    for key in sorted(settings.keys() | known.keys()):
        before, now = (_said(found.get(key)) for found in (known, settings))
        if before != now:
            raise RecordsError(f"{summary.parent}: was measured with {key} {before}, not {now}: {_REMEDY}")


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
