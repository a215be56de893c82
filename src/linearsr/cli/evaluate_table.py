"""What `linearsr eval` prints: tables that fit 80 columns."""

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from linearsr.evaluation.summary import number, remarks
from linearsr.jobs.messages import shown

_MOST_COLUMNS = 6


def show(document: dict[str, Any]) -> None:
    """The summary of an evaluation, what is missing from it, and where its files are."""
    out = Console(highlight=False, markup=False, emoji=False)
    table = _table("metric", "better", "on", "mean", "median", "std", "images", numbers=3)
    for name, found in document["metrics"].items():
        better = "higher" if found["higher_is_better"] else "lower"
        figures = (number(found[key]) for key in ("mean", "median", "std"))
        table.add_row(name, better, found["convention"], *figures, str(found["count"]))
    out.print(table)
    for line in remarks(document):
        out.print(shown(line))
    if document["published"]:
        ours = {name: found["mean"] for name, found in document["metrics"].items()}
        show_published([{"method": "measured", "values": ours, "source": ""}, *document["published"]])
    for file in document.get("files", []):
        out.print(shown(file), soft_wrap=True)


def show_published(lines: Sequence[dict[str, Any]]) -> None:
    """Lines of published tables, six metrics to a table; metrics that nobody published are left out."""
    out = Console(highlight=False, markup=False, emoji=False)
    values: dict[str, None] = {name: None for line in lines if line["source"] for name in line["values"]}
    names = list(values)
    for start in range(0, len(names), _MOST_COLUMNS):
        part = names[start : start + _MOST_COLUMNS]
        table = _table("method", *part, numbers=1)
        for line in lines:
            table.add_row(line["method"], *(number(line["values"].get(name)) for name in part))
        out.print(table)
    for source in dict.fromkeys(line["source"] for line in lines if line["source"]):
        out.print(f"published: {source}")


def _table(*columns: str, numbers: int) -> Table:
    """`numbers`: the first column of those to the right edge."""
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[numbers:]:
        column.justify, column.no_wrap = "right", True
    return table
