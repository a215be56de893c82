"""The report of an evaluation as one HTML file that needs nothing beside it."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from linearsr.evaluation.crops import data_url, most_different, worth_showing
from linearsr.evaluation.datasets import Published
from linearsr.evaluation.records import Records, Row
from linearsr.evaluation.sources import Pixels, Source
from linearsr.evaluation.summary import number, remarks
from linearsr.runtime.files import whole_file


def write_report(
    path: Path, summary: dict[str, Any], source: Source, records: Records, published: Sequence[Published] = ()
) -> None:
    """Write the summary, crops of the images worth showing and the values of every image.

    Args:
        summary: as `measure` returns it.
        source, records: what was measured.
        published: lines to put beside it.

    Raises:
        OSError: the file cannot be written.
    """
    cases = {case.name: case for case in source.cases}
    shown = worth_showing(records.rows, list(summary["metrics"]))
    figures = []
    for name, role in shown:
        try:
            crops = most_different(source.images_again(cases[name]))
        except ValueError as error:
            figures.append(f"<p>{escape(str(error))}</p>")
        else:
            figures.append(_figure(records.rows[name], role, crops))
    page = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        images=f"{summary['images']:,}",
        settings=_settings(summary["settings"]),
        summary=_summary_table(summary),
        remarks="".join(f"<li>{escape(line)}</li>" for line in remarks(summary)),
        published=_published_table(summary, published),
        figures="\n".join(figures),
        per_image=_per_image_table(records, list(summary["metrics"])),
    )
    with whole_file(path) as part:
        # a file may have a name that is no text
        part.write_text(text, encoding="utf-8", errors="replace")


def _figure(row: Row, role: str, crops: Sequence[tuple[str, Pixels]]) -> str:
    kinds = {kind for kind, _ in crops}
    images = "".join(
        f'<div class="view {kind.lower()}"><img src="{data_url(pixels)}" alt="{escape(row.name)}, {kind}">'
        f'<span class="label">{kind}</span></div>'
        for kind, pixels in crops
    )
    values = ", ".join(f"{name} {number(value)}" for name, value in row.values.items() if value is not None)
    slider = (
        '<input class="cut" type="range" min="0" max="100" value="50" '
        f'aria-label="{escape(row.name)}: where the result begins">'
        if len(kinds) > 1
        else ""
    )
    classes = " ".join(f"has-{kind.lower()}" for kind in sorted(kinds))
    return (
        f'<figure class="{classes}"><figcaption><strong>{escape(row.name)}</strong> <em>{escape(role)}</em>'
        f'<br>{escape(values)}</figcaption><div class="stage">{images}</div>{slider}</figure>'
    )


def _settings(settings: dict[str, Any]) -> str:
    entries = ((key, value) for key, value in settings.items() if key != "metrics" and value is not None)
    return "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in entries)


def _summary_table(summary: dict[str, Any]) -> str:
    header = ("metric", "better", "measured on", "mean", "median", "std", "min", "max", "images")
    rows = (
        (
            name,
            "higher" if found["higher_is_better"] else "lower",
            found["convention"],
            *(number(found[key]) for key in ("mean", "median", "std", "min", "max")),
            str(found["count"]),
        )
        for name, found in summary["metrics"].items()
    )
    return _table(header, rows, text_columns=3)


def _published_table(summary: dict[str, Any], published: Sequence[Published]) -> str:
    if not published:
        return ""
    columns = [name for name in summary["metrics"] if any(name in line.values for line in published)]
    columns += sorted({name for line in published for name in line.values} - set(columns))
    ours = {name: found["mean"] for name, found in summary["metrics"].items()}
    rows = [("this evaluation", *(number(ours.get(name)) for name in columns), "")]
    rows += [
        (line.method, *(number(line.values.get(name)) for name in columns), line.source) for line in published
    ]
    return "<h2>Published</h2>" + _table(("method", *columns, "source"), rows, text_columns=1)


def _per_image_table(records: Records, metrics: Sequence[str]) -> str:
    single = [name for name in metrics if name in records.metrics]
    rows = (
        (row.name, *(number(row.values.get(name)) for name in single), row.note)
        for row in records.rows.values()
    )
    return _table(("image", *single, "note"), rows, text_columns=1)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        styled = (
            f"<{tag}{'' if i < text_columns else ' class=number'}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(styled)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="scroll"><table><thead>{line(header, "th")}</thead><tbody>{body}</tbody></table></div>'
    )
