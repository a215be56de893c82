"""The report of an evaluation as one HTML file that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from linearsr.evaluation.evaluate import number, remarks
from linearsr.evaluation.records import Records, Row
from linearsr.evaluation.registry import METRICS
from linearsr.evaluation.sources import Images, Pixels, Source
from linearsr.runtime.files import whole_file

_Number = TypeVar("_Number", np.float64, np.int64)


def write_report(path: Path, summary: dict[str, Any], source: Source, records: Records) -> None:
    """Write the summary, crops of the images worth showing and the values of every image.

    Args:
        summary: as `measure` returns it.
        source, records: what was measured.

    Raises:
        OSError: the file cannot be written.
    """
    cases = {case.name: case for case in source.cases}
    figures: list[dict[str, Any]] = []
    for name, role in worth_showing(records.rows, list(summary["metrics"])):
        row = records.rows[name]
        try:
            crops = most_different(source.images(cases[name], again=True))
        except ValueError as error:
            figures.append({"error": str(error)})
        else:
            urls = [(kind, data_url(pixels)) for kind, pixels in crops]
            values = [
                f"{metric} {number(value)}" for metric, value in row.values.items() if value is not None
            ]
            figures.append({"name": name, "role": role, "values": ", ".join(values), "crops": urls})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["number"] = number
    page = environment.from_string(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    text = page.render(
        summary=summary,
        remarks=remarks(summary),
        figures=figures,
        rows=records.rows.values(),
    )
    with whole_file(path) as part:
        # a file may have a name that is no text
        part.write_text(text, encoding="utf-8", errors="replace")


def worth_showing(rows: Mapping[str, Row], metrics: Sequence[str], most: int = 12) -> list[tuple[str, str]]:
    """(image, what it is an example of): the worst, the middle and the best by the first of the metrics.

    A metric that compares is preferred to one that does not. Images without a value are left out.
    """
    ordered = sorted(metrics, key=lambda name: METRICS[name].kind != "full-reference")
    if not ordered:
        return []
    metric = ordered[0]
    sign = 1 if METRICS[metric].higher_is_better else -1
    values = {name: value for name, row in rows.items() if (value := row.values.get(metric)) is not None}
    ranked = sorted(values, key=lambda name: sign * values[name])
    if len(ranked) <= most:
        return [
            (name, f"{place} of {len(ranked)} from the worst, by {metric}")
            for place, name in enumerate(ranked, 1)
        ]
    third = most // 3
    middle = (len(ranked) - third) // 2
    groups = {"worst": ranked[:third], "middle": ranked[middle : middle + third], "best": ranked[-third:]}
    return [(name, f"{group}, by {metric}") for group, names in groups.items() for name in names]


def most_different(images: Images, side: int = 256) -> list[tuple[str, Pixels]]:
    """The square of at most `side` pixels where the result differs most from the HR image.

    Without an HR image the result is compared with the LR image, enlarged pixel by pixel.

    Returns:
        (what it is, (h, w, 3)) for LR image, result and HR image, as far as there are any; that of the LR image has its
        own, smaller size and shows the same place.
    """
    result = images.result
    height, width = result.shape[:2]
    scale = 1 if images.lr is None else max(1, round(height / images.lr.shape[0]))
    rows, columns = (_whole(min(side, length), scale) for length in (height, width))
    other = images.reference
    if other is None and images.lr is not None:
        large = images.lr.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
        other = large if large.shape == result.shape else None
    top, left = 0, 0
    if other is not None:
        error = np.square(result.astype(np.float64) - other).sum(axis=2)
        top, left = largest_window(error, rows, columns, scale)
    inner = slice(top, top + rows), slice(left, left + columns)
    crops = [("result", result[inner])]
    if images.reference is not None:
        crops.append(("HR", images.reference[inner]))
    if images.lr is not None:
        small = [slice(part.start // scale, part.stop // scale) for part in inner]
        crops.insert(0, ("LR", images.lr[small[0], small[1]]))
    return crops


def largest_window(values: NDArray[_Number], rows: int, columns: int, step: int = 1) -> tuple[int, int]:
    """Top and left, multiples of `step`, of the window of `rows` x `columns` with the largest sum of values (h, w)."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    windows = (
        sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    )
    grid = windows[::step, ::step]
    top, left = np.unravel_index(int(grid.argmax()), grid.shape)
    return int(top) * step, int(left) * step


def data_url(pixels: Pixels) -> str:
    """The image as lossless WebP in an address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", method=4, lossless=True, quality=50)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _whole(length: int, multiple: int) -> int:
    return max(multiple, length // multiple * multiple) if length >= multiple else length
