"""The report of a bulk job: a table with the outcome of every image, in a Parquet file beside the results."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from linearsr.bulk.plan import REPORT_NAME
from linearsr.bulk.store import BulkError, Store

Status = Literal["done", "skipped", "failed", "stopped", "replaced"]
"""Outcome of an image. Two are not about an image: `stopped`, the worker cannot work, which ends the job, and
`replaced`, the worker has taken the place of one that was killed; they do not appear in the report."""
Result = dict[str, Any]
"""A row of the report, with the columns of `SCHEMA`."""
SCHEMA = pa.schema(
    [
        ("input", pa.string()),
        ("output", pa.string()),
        ("status", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("seconds", pa.float32()),
        ("tags", pa.list_(pa.string())),
        ("warning", pa.string()),
        ("error", pa.string()),
    ]
)
"""Columns of the report, with one row per input. If it failed, `output` is null and `error` says why."""


def result(name: str, status: Status, size: Sequence[int | None] = (None, None), **rest: Any) -> Result:
    """Make a row; `size` is (width, height) of the result, `rest` are other columns."""
    row = {"input": name, "status": status, "width": size[0], "height": size[1]}
    return {**dict.fromkeys(SCHEMA.names), **row, **rest}


class Report:
    """The rows of this run, and of earlier runs for other inputs. Raises BulkError: the file is no report."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.url = f"{store.url}/{REPORT_NAME}"
        self._rows: list[Result] = []
        self._table = _read(store)

    def add(self, row: Result) -> None:
        """Add a row. A skipped image keeps its row from an earlier run instead, if there is one."""
        self._rows.append(row)

    def write(self) -> None:
        """Rewrite the file with all rows, either completely or not at all."""
        earlier, new = self._table, pa.Table.from_pylist(self._rows, SCHEMA)
        known = pc.and_(pc.equal(new["status"], "skipped"), pc.is_in(new["input"], earlier["input"]))
        new = new.filter(pc.invert(known))
        earlier = earlier.filter(pc.invert(pc.is_in(earlier["input"], new["input"])))
        self._table, self._rows = pa.concat_tables([earlier, new]), []
        file = BytesIO()
        pq.write_table(self._table, file, compression="zstd")
        self._store.write(REPORT_NAME, file.getvalue())


def _read(store: Store) -> pa.Table:
    if not store.exists(REPORT_NAME):
        return SCHEMA.empty_table()
    try:
        table = pq.read_table(BytesIO(store.read(REPORT_NAME)))
        return table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise BulkError(f"{store.url}/{REPORT_NAME} is not a LinearSR report: move it elsewhere") from error
