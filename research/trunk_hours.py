"""Plot LPIPS of the trunk over the core-hours of its training.

python research/trunk_hours.py -o docs/figures/trunk-hours.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MEASURED = Path(__file__).with_suffix(".csv")
"""LPIPS and PSNR-Y of the trained weights under three presets, at fidelity 0. Run 1: every second validation photo;
later runs: the first twelve. Each run counts the core-hours that its weights have seen."""
RUNS = {
    1: "every second photo",
    2: "twelve photos, as are the later ones",
    3: "from averaged weights",
    4: "without BSDS500 and Sun-Hays80",
    5: "the same, another order",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    table = np.genfromtxt(MEASURED, delimiter=",", names=True)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharex=True)
    for axis, preset in zip(axes, ("bicubic", "mild", "realesrgan"), strict=True):
        for run, what in RUNS.items():
            rows = table[table["run"] == run]
            axis.plot(rows["core_hours"], rows[f"{preset}_lpips"], ".-", markersize=4, label=f"{run}: {what}")
        axis.set(title=preset, xlabel="core-hours", ylabel="LPIPS")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize="small")
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(parser.parse_args().output, dpi=90)


if __name__ == "__main__":
    main()
