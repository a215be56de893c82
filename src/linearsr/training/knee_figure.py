"""Validation curves with their phases and knee, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.runtime.files import whole_file
from linearsr.training.curves import Curves
from linearsr.training.knee import Knee, Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: Mapping[Phase, str] = {"improving": "#dcefdc", "plateau": "#e4eaf5", "oscillating": "#fae0dc"}
_LINE, _KNEE = "#1f4e79", "#c0392b"
_DPI = 110


def draw_knee(curves: Curves, higher_is_better: Mapping[str, bool], knee: Knee, file: Path) -> None:
    """Write a PNG: one diagram a metric, phases shaded, a line at the knee.

    Needs matplotlib (the extra `train`). An existing file is replaced; a failure leaves none. OSError where
    the place cannot be written to.
    """
    # the object, not pyplot: no global state, no window system
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(curves.values))
    rows = -(-len(curves.values) // columns)
    figure = Figure(figsize=(5.2 * columns, 2.6 * rows + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axis, (name, values) in zip(axes, curves.values.items(), strict=False):
        _draw_metric(axis, curves.steps, values, knee)
        # escaped, as a dollar would begin a formula
        title = name.replace("$", r"\$")
        axis.set_title(f"{title} ({'higher' if higher_is_better[name] else 'lower'} is better)", fontsize=9)
    for axis in list(axes)[len(curves.values) :]:
        axis.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    save_figure(figure, file)


def save_figure(figure: "Figure", file: Path) -> None:
    """Write a PNG by rename, so that a failure leaves none."""
    with whole_file(file) as draft:
        figure.savefig(draft, dpi=_DPI, format="png")


def _draw_metric(axis: "Axes", steps: list[int], values: list[float | None], knee: Knee) -> None:
    first = steps[0]
    for phase, span in knee.spans().items():
        if span is not None:
            # the plateau begins where the improvement ends, the oscillation with its first evaluation
            last = knee.onset_step if phase == "plateau" and knee.onset_step is not None else span[1]
            axis.axvspan(min(first, span[0]), last, color=_COLOURS[phase], label=phase, linewidth=0)
            first = last
    numbers = [float("nan") if value is None else value for value in values]
    axis.plot(steps, numbers, ".-", color=_LINE, markersize=4, linewidth=1)
    if knee.knee_step is not None:
        label = f"knee {knee.knee_step:,} (confidence {knee.confidence:.2f})"
        axis.axvline(knee.knee_step, color=_KNEE, linestyle="--", linewidth=1.2, label=label)
    axis.set_xlabel("step or images", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.margins(x=0.01)
