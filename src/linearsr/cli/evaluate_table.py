"""What `linearsr eval` prints: tables that fit 80 columns."""

from collections.abc import Sequence
from typing import Any

from linearsr.cli.console import out, table
from linearsr.evaluation.summary import number, remarks
from linearsr.jobs.messages import shown

_MOST_COLUMNS = 6


def show(document: dict[str, Any]) -> None:
    """The summary of an evaluation, what is missing from it, and where its files are."""
    screen = out()
    measured = table("metric", "better", "on", "mean", "median", "std", "images", numbers=3)
    for name, found in document["metrics"].items():
        better = "higher" if found["higher_is_better"] else "lower"
        figures = (number(found[key]) for key in ("mean", "median", "std"))
        measured.add_row(name, better, found["convention"], *figures, str(found["count"]))
    screen.print(measured)
    for line in remarks(document):
        screen.print(shown(line))
    if document["published"]:
        ours = {name: found["mean"] for name, found in document["metrics"].items()}
        show_published([{"method": "measured", "values": ours, "source": ""}, *document["published"]])
    for file in document.get("files", []):
        screen.print(shown(file), soft_wrap=True)


def show_published(lines: Sequence[dict[str, Any]]) -> None:
    """Lines of published tables, six metrics to a table; metrics that nobody published are left out."""
    screen = out()
    values: dict[str, None] = {name: None for line in lines if line["source"] for name in line["values"]}
    names = list(values)
    for start in range(0, len(names), _MOST_COLUMNS):
        part = names[start : start + _MOST_COLUMNS]
        published = table("method", *part, numbers=1)
        for line in lines:
            published.add_row(line["method"], *(number(line["values"].get(name)) for name in part))
        screen.print(published)
    for source in dict.fromkeys(line["source"] for line in lines if line["source"]):
        screen.print(f"published: {source}")
