"""Measure how well the knee is found, on the families of synthetic runs of `tests/knee_families.py`.

    python research/knee_study.py [--runs 100] [--seed 2026] [--family NAME] [--online 100]

Each family has runs with a known knee, and as many that still improve. A knee is right if it lies within one
evaluation of where 90% to 99% of the gain is made, and before the oscillation. A knee in a run that still
improves is a false alarm. Online, a run ends at the first evaluation where its knee is confirmed. The
detector was developed on seeds below 100.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from linearsr.training.knee import Knee, find_knee

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from knee_families import FAMILIES, FamilyRun, family_run


def draw(family: str, count: int, seed: int, improving: bool) -> list[FamilyRun]:
    rng = np.random.default_rng([seed, FAMILIES.index(family), improving])
    return [family_run(rng, family, improving) for _ in range(count)]


def answer(run: FamilyRun, evaluations: int | None = None) -> Knee:
    curves = {name: values[:evaluations] for name, values in run.curves.items()}
    return find_knee(run.steps[:evaluations], curves, run.higher_is_better, rates=run.rates)


def stopped(run: FamilyRun) -> int | None:
    """Return the knee at the first evaluation where it is confirmed, or None."""
    answers = (answer(run, n) for n in range(5, len(run.steps) + 1))
    return next((knee.knee_step for knee in answers if knee.confirmed), None)


def percent(found: list[bool]) -> str:
    return f"{100 * np.mean(found):.0f}%" if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--family", choices=FAMILIES, nargs="+", default=FAMILIES)
    parser.add_argument("--online", type=int, default=100, help="of the runs, how many are also seen online")
    args = parser.parse_args()
    title = f"{args.runs} runs with a knee and {args.runs} that still improve, seed {args.seed}"
    table = Table("family", "right", "false alarms", "online: right", "online: false alarms", title=title)
    for family in args.family:
        runs, improving = (draw(family, args.runs, args.seed, improving) for improving in (False, True))
        table.add_row(
            family,
            percent([run.is_right(answer(run).knee_step) for run in runs]),
            percent([answer(run).knee_step is not None for run in improving]),
            percent([run.is_right(stopped(run)) for run in runs[: args.online]]),
            percent([stopped(run) is not None for run in improving[: args.online]]),
        )
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
