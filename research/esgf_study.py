"""Test early stopping at the knee: fine-tune from the knee of a run and from its end, and compare.

    python research/esgf_study.py configs/tiny.yaml -o runs/esgf --images 40000 --tune 2000

Pre-trains far beyond the knee at a constant learning rate. Then fine-tunes on the best half of the photos,
with the same settings for each seed, from the weights at the knee and from the last ones. Counts the steps
that the divergence guard skipped. Finished runs are not trained again.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from linearsr.training.config import parse_settings, read_settings
from linearsr.training.guard import Diverged
from linearsr.training.recipe import RecipeConfig, Run, plan
from linearsr.training.run_folder import KNEE_FILE, Report, records
from linearsr.training.runs import train_run

KINDS, AT = ("mean", "sample"), ("first", "worst", "last")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, required=True, help="of the pre-training")
    parser.add_argument("--tune", type=int, required=True, help="images of each fine-tuning")
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-4, 3e-3], help="of the fine-tuning")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    raw = read_settings(args.recipe)
    long = {"total_images": args.images, "stop_at_knee": False, "optimizer": {"final_lr": _rate(raw)}}
    every = max(args.images // 40, raw["common"]["batch_size"])
    pretrain = {**raw["stages"]["pretrain"], **long, "validation": {"every_images": every}}
    stages = {**raw["stages"], "pretrain": pretrain}
    del stages["experts"], stages["sft"]
    recipe = {**raw, "run_dir": args.output, "stages": stages}
    for run in _runs(recipe):
        _train(run)
    knee = json.loads((args.output / "pretrain" / KNEE_FILE).read_text(encoding="utf-8"))

    table = Table(
        "from", "images", "rate", *(f"{kind} {at}" for kind in KINDS for at in AT), "bad", "diverged"
    )
    for rate in args.lr:
        for start, images in (("knee", knee["images"]), ("final", args.images)):
            tuned = [
                _fine_tune(recipe, args.output, start, rate, seed, args.tune) for seed in range(args.seeds)
            ]
            figures = [f"{median(run[kind, at] for run in tuned):.2f}" for kind in KINDS for at in AT]
            bad = sum(run["steps", "bad"] for run in tuned)
            diverged = sum(run["run", "diverged"] for run in tuned)
            table.add_row(
                start, f"{images:,}", f"{rate:g}", *figures, f"{bad:.0f}", f"{diverged:.0f} of {len(tuned)}"
            )
    found = "no knee" if knee.get("knee_step") is None else f"knee at {knee['knee_step']:,}"
    Console(width=100).print(
        f"{found}, onset of oscillation: {knee.get('onset_step')}, confidence {knee.get('confidence', 0):.2f}"
    )
    Console(width=100).print(
        "PSNR-Y in dB on the validation photos, median over the seeds; bad: steps the guard skipped"
    )
    Console(width=100).print(table)


def _rate(raw: dict[str, Any]) -> float:
    """Return the learning rate of the pre-training."""
    own = raw["stages"]["pretrain"].get("optimizer", {})
    return float({**raw["common"].get("optimizer", {}), **own}["lr"])


def _runs(recipe: dict[str, Any]) -> list[Run]:
    return plan(parse_settings(RecipeConfig, recipe, "recipe"), "recipe")


def _train(run: Run) -> None:
    def quiet(_: Run) -> Report:
        return lambda record: None

    if not run.finished:
        train_run(run, quiet)


def _fine_tune(
    recipe: dict[str, Any], folder: Path, start: str, rate: float, seed: int, images: int
) -> dict[tuple[str, str], float]:
    """Fine-tune, and return PSNR-Y at the first, worst and last validation, and the number of bad steps."""
    every = images // 10
    stage = {**recipe["stages"]["pretrain"]["stage"], "init": folder / "pretrain" / start / "transformer"}
    stage.pop("network", None)
    tuning = {
        "total_images": images,
        "seed": seed,
        "stop_at_knee": False,
        "save_every_images": images,
        "stage": stage,
        "data": {"best_share": 0.5},
        "validation": {"every_images": every, "sample_pictures": 0},
        "optimizer": {"lr": rate, "final_lr": rate},
    }
    name = f"tuned/{start}-{rate:g}-{seed}"
    runs = _runs({**recipe, "stages": {**recipe["stages"], "pretrain": tuning}})
    config = runs[-1].config.model_copy(update={"run_dir": folder / name})
    diverged = False
    try:
        _train(Run(name, config))
    except Diverged:
        diverged = True
    history = list(records(config.run_dir))
    figures: dict[tuple[str, str], float] = {
        ("steps", "bad"): sum("skipped" in record for record in history),
        ("run", "diverged"): diverged,
    }
    for kind in KINDS:
        curve = [
            fmean(value for key, value in record.items() if key.endswith(f"{kind}/psnr_y"))
            for record in history
            if any(key.endswith(f"{kind}/psnr_y") for key in record)
        ]
        figures |= {(kind, "first"): curve[0], (kind, "worst"): min(curve), (kind, "last"): curve[-1]}
    return figures


if __name__ == "__main__":
    main()
