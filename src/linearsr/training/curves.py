"""Validation curves: reading them from a run folder or CSV file, the direction of each metric, and plots."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.evaluation.plotting import BLUE, RED, drawn
from linearsr.training.knee import Knee, KneeConfig, Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"

_HIGHER_IS_BETTER: dict[str, bool] = {"psnr": True, "ssim": True, "map": True, "loss": False}
"""Directions of metrics that the registry of `linearsr eval` lacks, or has only under longer names."""

_PHASES: Mapping[Phase, str] = {"improving": "#dcefdc", "plateau": "#e4eaf5", "oscillating": "#fae0dc"}
_STEP_NAMES = ("step", "images")
_RATE = "lr"
_LARGEST_STEP = 2**53
"""Larger integers are not exact in floating point."""
_Row = tuple[str, float | None, dict[str, float | None]]
"""A row: its place for messages, its step, and its values."""


class CurvesError(ValueError):
    """Raised for curves that cannot be read or understood; the message is one line that says what to do."""


@dataclass(frozen=True)
class Curves:
    """Metrics over training. `steps` rise; `values` has one value per metric and step, None if missing.

    `rates` maps steps, including those without values, to learning rates, as far as known.
    """

    steps: list[int]
    values: dict[str, list[float | None]]
    rates: dict[int, float] = field(default_factory=dict)


def records(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a run's `metrics.jsonl`, without an incomplete last line left by a killed run.

    Raises CurvesError: when another line is not a record.
    """
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError:
            if number == len(lines):
                return
            raise CurvesError(f"{file}, line {number} is not JSON: remove it") from None
        if not isinstance(record, dict):
            raise CurvesError(f"{file}, line {number} is not a record: remove it")
        if record:
            yield record


def read_curves(path: Path, patterns: Sequence[str] = ("*",)) -> Curves:
    """Read curves from a run folder (the validations in its `metrics.jsonl`), such a file, or a CSV file.

    A CSV file has a column `step` (or `images`) and one column per metric; an empty cell is a missing value,
    and a row without any value is left out. A column `lr` holds the learning rates. Only metrics whose names
    match one of the `patterns` are read.

    Raises:
        CurvesError: when the file is missing, has another form or no values, or steps do not rise.
    """
    source = path / METRICS_FILE if path.is_dir() else path
    if not source.exists():
        missing = f"has no {METRICS_FILE}" if path.is_dir() else "does not exist"
        raise CurvesError(f"{path} {missing}: give the folder of a run, or a CSV file")
    try:
        rows = list(_validations(source) if source.suffix == ".jsonl" else _table(source))
    except UnicodeDecodeError:
        raise CurvesError(f"{source} is not a text file: give the folder of a run, or a CSV file") from None
    except OSError as error:
        raise CurvesError(f"{source} cannot be read: {error.strerror}") from None
    before, kept, rates = -1, dict[int, dict[str, float | None]](), dict[int, float]()
    for place, number, values in rows:
        if all(value is None for value in values.values()):
            continue
        if number is None or not 0 <= number <= _LARGEST_STEP or number != int(number):
            raise CurvesError(f"{source}, {place}: a step is a whole number from 0, not {number}")
        step = int(number)
        if step <= before:
            raise CurvesError(
                f"{source}: {place} has step {step} after {before}: sort the steps and keep each once"
            )
        before, rate = step, values.pop(_RATE, None)
        if rate is not None:
            rates[step] = rate
        if any(value is not None for value in values.values()):
            kept[step] = values
    if not kept:
        raise CurvesError(f"{source} has no values of any metric yet")
    every = dict.fromkeys(name for values in kept.values() for name in values)
    names = [name for name in every if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not names:
        raise CurvesError(f"no metric fits {', '.join(patterns)}: there are {', '.join(every)}")
    return Curves(list(kept), {name: [values.get(name) for values in kept.values()] for name in names}, rates)


def _validations(path: Path) -> Iterator[_Row]:
    for record in records(path):
        if "grad_norm" not in record and "event" not in record:
            values = {name: _number(value, f"{path}: {name}") for name, value in record.items()}
            yield "a record", values.pop("images", None), values


def _table(path: Path) -> Iterator[_Row]:
    text = path.read_text(encoding="utf-8-sig")
    if "\0" in text:
        raise CurvesError(f"{path} is not a text file: give the folder of a run, or a CSV file")
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True, strict=True)
    try:
        header = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        step = next((name for name in _STEP_NAMES if name in header), None)
        if step is None:
            raise CurvesError(f"{path} has no column step or images in its first line")
        if len(set(header)) < len(header) or "" in header:
            raise CurvesError(f"{path}: every column needs a name of its own")
        for cells in reader:
            place = f"line {reader.line_num}"
            if None in cells or None in cells.values():
                raise CurvesError(f"{path}, {place} has another number of cells than there are columns")
            values = {
                name: _number(cell.strip(), f"{path}, {place}, column {name}") for name, cell in cells.items()
            }
            yield place, values.pop(step), values
    except csv.Error as error:
        raise CurvesError(f"{path}, line {reader.line_num} is not CSV: {error}") from None


def _number(value: Any, where: str) -> float | None:
    try:
        if isinstance(value, bool):
            raise TypeError
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise CurvesError(f"{where}: {str(value)[:40]!r} is not a number") from None


def knee_config(path: Path, patterns: Sequence[str] = ()) -> KneeConfig:
    """Return the knee settings of the run in a folder, or the defaults; `patterns` replace its `metrics`.

    Raises CurvesError: when the run's config cannot be read.
    """
    file = path / CONFIG_FILE
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))["knee"] if file.exists() else {}
        return KneeConfig.model_validate({**settings, **({"metrics": patterns} if patterns else {})})
    except (OSError, ValueError, KeyError, TypeError):
        raise CurvesError(f"{file} is not the config of a run: remove it for the default settings") from None


def directions(
    names: Iterable[str], higher: Sequence[str] = (), lower: Sequence[str] = ()
) -> dict[str, bool]:
    """Return whether higher is better for each metric: as asked, or as the last part of its name implies.

    `higher` and `lower` give metrics by full name or last part; e.g. "mild/mean/psnr_y" counts as a psnr.

    Raises:
        CurvesError: when a direction is unknown, a metric is in both lists, or no metric has a given name.
    """
    names = list(names)
    asked = {**dict.fromkeys(higher, True), **dict.fromkeys(lower, False)}
    for given in asked:
        if given in higher and given in lower:
            raise CurvesError(f"{given} is given as --higher and as --lower: choose one")
        if not any(given in (name, _last_part(name)) for name in names):
            raise CurvesError(f"no metric is named {given}: there are {', '.join(names)}")
    return {name: _direction(name, asked) for name in names}


def _last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _direction(name: str, asked: Mapping[str, bool]) -> bool:
    if (given := asked.get(name, asked.get(_last_part(name)))) is not None:
        return given
    from linearsr.evaluation.registry import METRICS  # needs torch, which reading curves does not

    better_higher = {metric.name: metric.higher_is_better for metric in METRICS.values()} | _HIGHER_IS_BETTER
    words = "_".join(re.findall(r"[a-z0-9]+", _last_part(name).lower()))
    known = {higher for metric, higher in better_higher.items() if f"_{metric}_" in f"_{words}_"}
    if len(known) != 1:
        raise CurvesError(f"is {name} better higher or lower? Say --higher '{name}' or --lower '{name}'")
    return known.pop()


def draw_knee(curves: Curves, higher_is_better: Mapping[str, bool], knee: Knee, file: Path) -> None:
    """Write a PNG with one diagram per metric, shaded phases, and a line at the knee; see `drawn`."""
    columns = min(2, len(curves.values))
    rows = -(-len(curves.values) // columns)
    with drawn(file, 5.2 * columns, 2.6 * rows + 0.9) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for axis, (name, values) in zip(axes, curves.values.items(), strict=False):
            _draw_metric(axis, curves.steps, values, knee)
            better = "higher" if higher_is_better[name] else "lower"
            # matplotlib would read a dollar sign as the start of a formula
            axis.set_title(name.replace("$", r"\$") + f" ({better} is better)", fontsize=9)
        for axis in list(axes)[len(curves.values) :]:
            axis.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        where = "outside upper center"
        figure.legend(handles, labels, loc=where, ncols=len(labels), fontsize=9, frameon=False)


def _draw_metric(axis: "Axes", steps: list[int], values: list[float | None], knee: Knee) -> None:
    first = steps[0]
    for phase, span in knee.spans().items():
        if span is not None:
            # the plateau starts where the improvement ends, and lasts until the first oscillating evaluation
            last = knee.onset_step if phase == "plateau" and knee.onset_step is not None else span[1]
            axis.axvspan(min(first, span[0]), last, color=_PHASES[phase], label=phase, linewidth=0)
            first = last
    numbers = [float("nan") if value is None else value for value in values]
    axis.plot(steps, numbers, ".-", color=BLUE, markersize=4, linewidth=1)
    if knee.knee_step is not None:
        label = f"knee {knee.knee_step:,} (confidence {knee.confidence:.2f})"
        axis.axvline(knee.knee_step, color=RED, linestyle="--", linewidth=1.2, label=label)
    axis.set_xlabel("step or images", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.margins(x=0.01)
