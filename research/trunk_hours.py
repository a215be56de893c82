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
"""LPIPS and PSNR-Y on every second validation photo under three presets, at fidelity 0, every ten minutes."""
CHANGES = {"A": 1.3, "B": 2.7, "C": 4.6, "D": 5.8, "E": 7.2, "F": 8.1}
"""Core-hours at which the training changed. A: cleaner targets; B: soft inputs; C: a third of the adversarial
gradient; D: a loss for needless detail; E: more adversarial gradient where a crop lacks detail; F: more where
its input is damaged, too."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    table = np.genfromtxt(MEASURED, delimiter=",", names=True)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), sharex=True)
    for axis, preset in zip(axes, ("bicubic", "mild", "realesrgan"), strict=True):
        axis.plot(table["core_hours"], table[f"{preset}_lpips"], "o-", markersize=3)
        for change, hours in CHANGES.items():
            axis.axvline(hours, color="0.8", zorder=0)
            axis.text(
                hours, 0.98, f" {change}", transform=axis.get_xaxis_transform(), va="top", fontsize="x-small"
            )
        axis.set(title=preset, xlabel="core-hours", ylabel="LPIPS")
    figure.tight_layout()
    figure.savefig(parser.parse_args().output, dpi=90)


if __name__ == "__main__":
    main()
