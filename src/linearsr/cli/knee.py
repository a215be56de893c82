"""`linearsr knee`: find where a run should have stopped, from its validation curves."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linearsr.cli.console import out, say, stop, table, told, write_json
from linearsr.cli.loading import check_new_file
from linearsr.cli.options import JsonDocument, Overwrite
from linearsr.jobs.messages import failure, shown

if TYPE_CHECKING:
    from linearsr.training.curves import Curves
    from linearsr.training.knee import Knee


def knee(
    source: Annotated[Path, Argument(metavar="RUN_OR_CSV", help="Folder of a training run, or CSV file.")],
    higher: Annotated[
        list[str] | None,
        Option("--higher", metavar="NAME", help="Metric for which higher is better; repeatable."),
    ] = None,
    lower: Annotated[
        list[str] | None,
        Option("--lower", metavar="NAME", help="Metric for which lower is better; repeatable."),
    ] = None,
    patterns: Annotated[
        list[str] | None,
        Option("--metric", metavar="PATTERN", help="Use only these metrics, such as '*/mean/*'; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        Option(
            "--output", "-o", metavar="PNG", help="Plot of the curves. Default: knee.png beside the input."
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: JsonDocument = False,
) -> None:
    """Find the knee of validation curves: the step at which they stop improving.

    For a training run, the metrics that decide its end vote; the others are listed below a line.

    A CSV file needs a column step (or images) and one column per metric. All metrics vote, except loss and train*. If
    there is a column lr, the learning rate, a plateau counts only after its last drop.

    The better direction is known for psnr, ssim, ms_ssim, haarpsi, musiq, maniqa, clipiqa, topiq, lpips, dists, niqe
    and loss; give it for others with --higher or --lower.

        linearsr knee runs/default/pretrain
        linearsr knee metrics.csv --higher aesthetics --json
    """
    from linearsr.training.curves import CurvesError, directions, knee_config, read_curves
    from linearsr.training.knee import find_knee, votes

    if output is not None:
        check_new_file("-o", output, (".png",), overwrite)
    with told(CurvesError):
        curves = read_curves(source, patterns or ("*",))
        higher_is_better = directions(curves.values, higher or (), lower or ())
        config = knee_config(source, patterns or ())
        if not any(votes(name, config.metrics) for name in curves.values):
            names = ", ".join(curves.values)
            raise CurvesError(f"no metric has a vote: there are {names}; let some vote with --metric NAME")
    found = find_knee(curves.steps, curves.values, higher_is_better, config, curves.rates)
    metrics = []
    for name, values in curves.values.items():
        finite = [value for value in values if value is not None and math.isfinite(value)]
        at_knee = None if found.knee_step is None else values[curves.steps.index(found.knee_step)]
        metrics.append(
            {
                "name": name,
                "higher_is_better": higher_is_better[name],
                "start": next(iter(finite), None),
                "at_knee": at_knee if at_knee is not None and math.isfinite(at_knee) else None,
                "best": (max if higher_is_better[name] else min)(finite, default=None),
                "last": next(reversed(finite), None),
                "votes": votes(name, config.metrics),
            }
        )
    picture = _draw(curves, higher_is_better, found, source, output)
    report = {
        "knee_step": found.knee_step,
        "onset_step": found.onset_step,
        "confidence": round(found.confidence, 4),
        "confirmed": found.confirmed,
        "phases": found.spans(),
        "metrics": metrics,
        "picture": None if picture is None else str(picture),
    }
    if as_json:
        write_json(report)
    else:
        _show(report)


def _draw(
    curves: "Curves", higher_is_better: dict[str, bool], found: "Knee", source: Path, output: Path | None
) -> Path | None:
    """Draw the curves and return the path of the figure, or None after a warning if it cannot be written.

    With `output`, which asks for the figure, a failure ends the command instead.
    """
    from linearsr.training.curves import draw_knee

    place = output or (source / "knee.png" if source.is_dir() else source.with_suffix(".knee.png"))
    try:
        draw_knee(curves, higher_is_better, found, place)
    except (ModuleNotFoundError, OSError) as error:
        why = failure(error, place)
        if isinstance(error, ModuleNotFoundError):
            why = f"it needs {error.name}: pip install 'linearsr[train]'"
        if output is not None:
            stop(f"no picture: {why}")
        say(f"linearsr: no picture: {why}")
        return None
    return place


def _show(report: dict[str, Any]) -> None:
    screen = out()
    values = table("metric", "better", "start", "at knee", "best", "last", numbers=2, ruled=True)
    silent = sum(not metric["votes"] for metric in report["metrics"])
    for number, metric in enumerate(sorted(report["metrics"], key=lambda metric: not metric["votes"]), 1):
        figures = (metric[key] for key in ("start", "at_knee", "best", "last"))
        better = "higher" if metric["higher_is_better"] else "lower"
        row = (shown(metric["name"]), better, *("-" if x is None else f"{x:.5g}" for x in figures))
        values.add_row(*row, end_section=number == len(report["metrics"]) - silent)
    screen.print(values)
    if silent:
        screen.print(f"without a vote: the last {silent}")
    phases = table("phase", "from", "to", numbers=1, ruled=True)
    for phase, span in report["phases"].items():
        phases.add_row(phase, *("-" if span is None else f"{step:,}" for step in span or (None, None)))
    screen.print(phases)
    confidence = f"confidence {report['confidence']:.2f}"
    if report["knee_step"] is None:
        screen.print(f"knee    none yet ({confidence})")
    else:
        state = "confirmed" if report["confirmed"] else "not confirmed yet"
        screen.print(f"knee    {report['knee_step']:,} ({confidence}, {state})")
    screen.print("onset   " + ("none" if report["onset_step"] is None else f"{report['onset_step']:,}"))
    if report["picture"] is not None:
        screen.print(f"picture {shown(report['picture'])}", soft_wrap=True)
