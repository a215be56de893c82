"""What training shows as pictures: validation curves with their knee, and the agreement of gradients over log-SNR."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.evaluation.plotting import BLUE, RED, drawn
from linearsr.flow.partition import Partition
from linearsr.flow.snr import log_snr
from linearsr.training.curves import Curves
from linearsr.training.knee import Knee, Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from linearsr.training.partition import TimeGradients

_PHASES: Mapping[Phase, str] = {"improving": "#dcefdc", "plateau": "#e4eaf5", "oscillating": "#fae0dc"}
_STYLES = (("-", RED), ("--", BLUE), (":", "#222222"), ("-.", "#7d3c98"))


def draw_knee(curves: Curves, higher_is_better: Mapping[str, bool], knee: Knee, file: Path) -> None:
    """Write a PNG: one diagram a metric, phases shaded, a line at the knee; see `drawn`."""
    columns = min(2, len(curves.values))
    rows = -(-len(curves.values) // columns)
    with drawn(file, 5.2 * columns, 2.6 * rows + 0.9) as figure:
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for axis, (name, values) in zip(axes, curves.values.items(), strict=False):
            _draw_metric(axis, curves.steps, values, knee)
            # escaped, as a dollar would begin a formula
            title = name.replace("$", r"\$")
            axis.set_title(
                f"{title} ({'higher' if higher_is_better[name] else 'lower'} is better)", fontsize=9
            )
        for axis in list(axes)[len(curves.values) :]:
            axis.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        place = {"loc": "outside upper center", "ncols": len(labels)}
        figure.legend(handles, labels, **place, fontsize=9, frameon=False)


def _draw_metric(axis: "Axes", steps: list[int], values: list[float | None], knee: Knee) -> None:
    first = steps[0]
    for phase, span in knee.spans().items():
        if span is not None:
            # the plateau begins where the improvement ends, the oscillation with its first evaluation
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


def draw_partition(gradients: "TimeGradients", partitions: Mapping[str, Partition], file: Path) -> None:
    """Write a PNG: the cosines over log-SNR, and the boundaries of up to four partitions by name; see `drawn`."""
    step = gradients.log_snrs[1] - gradients.log_snrs[0]
    low, high = gradients.log_snrs[0] - step / 2, gradients.log_snrs[-1] + step / 2
    with drawn(file, 6.4, 6.2) as figure:
        axis = figure.subplots()
        shown = axis.imshow(
            gradients.similarity,
            origin="lower",
            extent=(low, high, low, high),
            vmin=-1,
            vmax=1,
            cmap="RdBu_r",
        )
        figure.colorbar(shown, ax=axis, label="cosine between the gradients", shrink=0.8)
        for (name, partition), (line, colour) in zip(partitions.items(), _STYLES, strict=False):
            for number, boundary in enumerate(partition.boundaries):
                style: Any = {"color": colour, "linestyle": line, "linewidth": 1.3}
                axis.axvline(log_snr(boundary), label=name if number == 0 else None, **style)
                axis.axhline(log_snr(boundary), **style)
        axis.set(xlim=(low, high), ylim=(low, high), ylabel="log-SNR")
        axis.set_xlabel("log-SNR (noise on the left, image on the right)")
        _add_times(axis)
        if any(partition.boundaries for partition in partitions.values()):
            figure.legend(loc="outside lower center", ncols=len(partitions), fontsize=9, frameon=False)


def _add_times(axis: "Axes") -> None:
    """The same axis once more, in times."""
    top = axis.secondary_xaxis("top")
    marks = (0.97, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03)
    top.set_xticks([log_snr(t) for t in marks], [f"{t:g}" for t in marks])
    top.set_xlabel("time t")
