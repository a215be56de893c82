"""How much the gradients at two log-SNRs agree, with the boundaries between experts, as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.flow.partition import Partition
from linearsr.flow.snr import log_snr
from linearsr.training.knee_figure import save_figure
from linearsr.training.partition import TimeGradients

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("-", "#c0392b"), ("--", "#1f4e79"), (":", "#222222"), ("-.", "#7d3c98"))


def draw_partition(gradients: TimeGradients, partitions: Mapping[str, Partition], file: Path) -> None:
    """Write a PNG: the matrix of cosines over log-SNR, and the boundaries of up to four partitions by name.

    Needs matplotlib (the extra `train`). An existing file is replaced; a failure leaves none. OSError where
    the place cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    step = gradients.log_snrs[1] - gradients.log_snrs[0]
    low, high = gradients.log_snrs[0] - step / 2, gradients.log_snrs[-1] + step / 2
    shown = axis.imshow(
        gradients.similarity, origin="lower", extent=(low, high, low, high), vmin=-1, vmax=1, cmap="RdBu_r"
    )
    figure.colorbar(shown, ax=axis, label="cosine between the gradients", shrink=0.8)
    for (name, partition), (line, colour) in zip(partitions.items(), _STYLES, strict=False):
        for number, boundary in enumerate(partition.boundaries):
            label = name if number == 0 else None
            axis.axvline(log_snr(boundary), color=colour, linestyle=line, linewidth=1.3, label=label)
            axis.axhline(log_snr(boundary), color=colour, linestyle=line, linewidth=1.3)
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_xlabel("log-SNR (noise on the left, image on the right)")
    axis.set_ylabel("log-SNR")
    _add_times(axis)
    if any(partition.boundaries for partition in partitions.values()):
        figure.legend(loc="outside lower center", ncols=len(partitions), fontsize=9, frameon=False)
    save_figure(figure, file)


def _add_times(axis: "Axes") -> None:
    """The same axis once more, in times."""
    top = axis.secondary_xaxis("top")
    marks = (0.97, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03)
    top.set_xticks([log_snr(t) for t in marks], [f"{t:g}" for t in marks])
    top.set_xlabel("time t")
