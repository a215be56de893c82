"""Draw figures of the method for the documentation: log-SNR over time, and the expert of each step.

python research/figures.py -o docs/figures      # log_snr.png and routing.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from linearsr.flow.partition import PUBLISHED
from linearsr.flow.path import log_snr
from linearsr.settings import PipelineConfig

COLOURS = ("#c9d7ea", "#dcefdc", "#fbeccb", "#fae0dc")
LINE = "#1f4e79"
DPI = 110
LIMIT = 12
"""Largest log-SNR in the picture; it is infinite at both ends of time."""


def draw_log_snr(file: Path) -> None:
    figure, axis = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    times = np.linspace(0.0005, 0.9995, 2000)
    axis.plot(times, [log_snr(float(t)) for t in times], color=LINE)
    for index, name in enumerate(PUBLISHED.names):
        low, high = PUBLISHED.span(index)
        axis.axvspan(
            low, high, color=COLOURS[index], linewidth=0, label=f"{index}: {name}, ({low:g}, {high:g}]"
        )
    for t in PUBLISHED.boundaries:
        axis.plot([t], [log_snr(t)], "o", color=LINE, markersize=5)
        below = t > 0.5
        axis.annotate(
            f"t = {t:g}\nlog-SNR {log_snr(t):.2f}",
            (t, log_snr(t)),
            xytext=(-10, -38 if t > 0.9 else -24) if below else (6, 8),
            textcoords="offset points",
            ha="right" if below else "left",
            fontsize=8,
        )
    axis.set(xlim=(0, 1), ylim=(-LIMIT, LIMIT), xlabel="time t (0: the image, 1: noise)", ylabel="log-SNR")
    axis.grid(visible=True, linewidth=0.3)
    axis.legend(title="expert, its span of t", loc="lower left", fontsize=8, title_fontsize=8)
    figure.savefig(file, dpi=DPI)


def draw_route(axis: Axes, times: list[float], title: str) -> None:
    for step, t in enumerate(times):
        expert = PUBLISHED.expert(t)
        axis.bar(
            step + 1, log_snr(t) + LIMIT if t < 1 else 0.4, bottom=-LIMIT, color=COLOURS[expert], width=0.9
        )
        axis.text(
            step + 1, -LIMIT + 0.7, f"expert {expert}\nt = {t:.3g}", ha="center", va="bottom", fontsize=8
        )
    for t in PUBLISHED.boundaries:
        axis.axhline(log_snr(t), color=LINE, linewidth=0.7, linestyle=":")
    axis.set(xlabel="step", ylim=(-LIMIT, 6), title=title, xticks=range(1, len(times) + 1))
    axis.title.set_fontsize(9)


def draw_routing(file: Path) -> None:
    """Draw walks of 4 steps, which start at t = 1 and at the boundaries, and of 8 steps."""
    config = PipelineConfig(sigmas=(1.0, *reversed(PUBLISHED.boundaries)))
    figure, axes = plt.subplots(2, 1, figsize=(7.2, 6.2), layout="constrained")
    for axis, steps in zip(axes, (4, 8), strict=True):
        draw_route(axis, config.times(steps)[:-1], f"{steps} steps")
        axis.set_ylabel("log-SNR at the step's start")
    figure.savefig(file, dpi=DPI)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    draw_log_snr(args.output / "log_snr.png")
    draw_routing(args.output / "routing.png")


if __name__ == "__main__":
    main()
