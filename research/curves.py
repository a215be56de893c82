"""Plot the loss and validation curves of training runs into one picture.

python research/curves.py RUN_DIR ... -o curves.png
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SMOOTH = 50


def draw(run: Path, loss_axis: Axes, validation_axis: Axes) -> None:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [r for r in records if "grad_norm" in r]
    name = next(term for term in ("l1", "mse", "flow") if term in steps[0])
    loss = np.convolve([r[name] for r in steps], np.ones(SMOOTH) / SMOOTH, "valid")
    loss_axis.plot([r["images"] for r in steps[SMOOTH - 1 :]], loss)
    loss_axis.set(title=f"{run.name}: {name} loss (mean of {SMOOTH} steps)", xlabel="images")
    validations = [r for r in records if any(key.endswith("psnr_y") for key in r)]
    for key in (k for k in validations[0] if k.endswith("psnr_y")):
        label = key.removesuffix("/psnr_y")
        validation_axis.plot(
            [r["images"] for r in validations], [r[key] for r in validations], "o-", label=label
        )
    validation_axis.set(title=f"{run.name}: validation PSNR-Y (dB)", xlabel="images")
    validation_axis.legend(fontsize="small")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    figure, axes = plt.subplots(len(args.runs), 2, figsize=(11, 3 * len(args.runs)), squeeze=False)
    for run, (loss_axis, validation_axis) in zip(args.runs, axes, strict=True):
        draw(run, loss_axis, validation_axis)
    figure.tight_layout()
    figure.savefig(args.output, dpi=90)


if __name__ == "__main__":
    main()
