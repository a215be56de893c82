"""How well the knee is found: 1,000 synthetic runs with a known knee, then other layouts and online use.

    python research/knee_study.py [--runs 1000] [--seed 2026]

The runs are those of `tests/knee_runs.py`; the detector was developed on seeds below 100, so the default
seed is held out. "Right" is a knee within one evaluation of the true one. A run that still improves is right
when no knee is called. Alternatives see the same runs: `kneed` (Kneedle), the first smoothed value at 97% of
the best one, and a robust fit of one exponential with scipy, for each metric and then the median.
"""

import argparse
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from linearsr.training.knee import Knee, KneeConfig, find_knee

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from knee_runs import PUBLISHED, Layout, SyntheticRun, synthetic_run

MIX = ("oscillation",) * 5 + ("divergence",) * 2 + ("still improving",) * 3
LAYOUTS = {
    "knee 24k": Layout(knee=24_000),
    "knee 50k, between evaluations": Layout(knee=50_000),
    "knee 96k": Layout(knee=96_000),
    "knee 144k": Layout(knee=144_000),
    "every 2k (132 evaluations)": Layout(every=2_000),
    "every 4k": Layout(every=4_000),
    "every 16k": Layout(every=16_000),
    "every 4k, last 128k": Layout(every=4_000, last=128_000, onset=(96_000, 112_000)),
}
OUT = Console(highlight=False)

Locate = Callable[[SyntheticRun], float | None]


def ours(run: SyntheticRun, evaluations: int | None = None) -> Knee:
    curves = {name: values[:evaluations] for name, values in run.curves.items()}
    return find_knee(run.steps[:evaluations], curves, run.higher_is_better)


def is_right(run: SyntheticRun, knee: float | None) -> bool:
    if run.knee is None or knee is None:
        return run.knee is None and knee is None
    return abs(knee - run.knee) <= run.every


def draw_runs(count: int, seed: int, layout: Layout = PUBLISHED) -> list[SyntheticRun]:
    rng = np.random.default_rng(seed)
    return [synthetic_run(rng, MIX[i % len(MIX)], layout) for i in range(count)]


def curves_of(run: SyntheticRun) -> list[np.ndarray]:
    """Each metric, higher is better, in units of its gain; gaps filled by interpolation."""
    filled = []
    for name, values in run.curves.items():
        y = np.array(values) * (1 if run.higher_is_better[name] else -1)
        known = np.flatnonzero(np.isfinite(y))
        y = np.interp(np.arange(len(y)), known, y[known])
        gain = np.quantile(y, 0.9) - y[0]
        filled.append(np.clip((y - y[0]) / (gain or 1), -0.5, 1.5))
    return filled


def smoothed(run: SyntheticRun) -> np.ndarray:
    mean = np.mean(curves_of(run), axis=0)
    padded = np.pad(mean, 1, mode="edge")
    return np.median([padded[:-2], mean, padded[2:]], axis=0)


def kneedle(run: SyntheticRun) -> float | None:
    from kneed import KneeLocator

    knee = KneeLocator(run.steps, smoothed(run), curve="concave", direction="increasing").knee
    return None if knee is None or knee == run.steps[-1] else float(knee)


def share_of_best(run: SyntheticRun) -> float | None:
    y = smoothed(run)
    first = int(np.argmax(y >= y[0] + 0.97 * (y.max() - y[0])))
    return float(run.steps[first]) if first + 4 < len(y) else None


def exponential(run: SyntheticRun) -> float | None:
    from scipy.optimize import least_squares

    x = (np.array(run.steps) - run.steps[0]) / run.steps[-1]
    knees = []
    for y in curves_of(run):

        def residual(p: np.ndarray, y: np.ndarray = y) -> np.ndarray:
            return p[0] + p[1] * (1 - np.exp(-x / np.exp(p[2]))) - y

        fit = least_squares(residual, [y[0], np.median(y) - y[0], -2.5], loss="soft_l1", f_scale=0.03)
        knees.append(run.steps[0] + np.exp(fit.x[2]) * np.log(1 / 0.03) * run.steps[-1])
    knee = float(np.median(knees))
    return knee if knee <= run.steps[-5] else None


def percent(right: list[bool]) -> str:
    return f"{100 * np.mean(right):.1f}%" if right else "-"


def detail(runs: list[SyntheticRun], knees: list[Knee]) -> None:
    groups: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for run, knee in zip(runs, knees, strict=True):
        right = is_right(run, knee.knee_step)
        kind = groups[
            {True: "still improving: no knee called", False: "knee within one evaluation"}[run.knee is None]
        ]
        kind["all"].append(right)
        kind[f"shape: {run.shape}"].append(right)
        if run.knee is not None:
            kind[f"ending: {run.kind}"].append(right)
        kind[
            "noise: " + ("below 1%" if run.noise < 0.01 else "1 to 2%" if run.noise < 0.02 else "above 2%")
        ].append(right)
        kind[f"metrics: {len(run.curves)}"].append(right)
        for trait in run.traits:
            kind[f"with: {trait}"].append(right)
    for title, rows in groups.items():
        table = Table("runs that have", "runs", "right", title=title)
        for name in sorted(rows, key=lambda name: (name != "all", name)):
            table.add_row(name, str(len(rows[name])), percent(rows[name]))
        OUT.print(table)


def secondary(runs: list[SyntheticRun], knees: list[Knee]) -> None:
    table = Table("of runs with a knee", "", title="what else is said")
    pairs = [(run, knee) for run, knee in zip(runs, knees, strict=True) if run.knee is not None]
    called = [(run, knee) for run, knee in pairs if knee.knee_step is not None]
    table.add_row(
        "exactly the right evaluation", percent([knee.knee_step == run.knee for run, knee in pairs])
    )
    for kind in ("oscillation", "divergence"):
        near = [
            knee.onset_step is not None and abs(knee.onset_step - run.onset) <= 2 * run.every
            for run, knee in pairs
            if run.kind == kind
        ]
        table.add_row(f"onset of {kind} within two evaluations", percent(near))
    for low, high in ((0, 0.7), (0.7, 0.9), (0.9, 0.97), (0.97, 1.01)):
        band = [is_right(run, knee.knee_step) for run, knee in called if low <= knee.confidence < high]
        table.add_row(f"confidence {low} to {min(high, 1)}: {len(band)} runs, right", percent(band))
    OUT.print(table)


def compare(runs: list[SyntheticRun], methods: dict[str, Locate]) -> None:
    table = Table(
        "method", "knee within one evaluation", "still improving called a knee", title="alternatives"
    )
    for name, locate in methods.items():
        found = [(run, locate(run)) for run in runs]
        table.add_row(
            name,
            percent([is_right(run, knee) for run, knee in found if run.knee is not None]),
            percent([knee is not None for run, knee in found if run.knee is None]),
        )
    OUT.print(table)


def layouts(count: int, seed: int) -> None:
    title = f"other layouts, {count} runs each"
    table = Table("layout", "within one evaluation", "within 8k", "called a knee too soon", title=title)
    for i, (name, layout) in enumerate(LAYOUTS.items()):
        found = [(run, ours(run).knee_step) for run in draw_runs(count, seed + 1 + i, layout)]
        right = [is_right(run, knee) for run, knee in found if run.knee is not None]
        near = [
            knee is not None and abs(knee - run.knee) <= 8_000 for run, knee in found if run.knee is not None
        ]
        false = [knee is not None for run, knee in found if run.knee is None]
        table.add_row(name, percent(right), percent(near), percent(false))
    OUT.print(table)


def online(count: int, seed: int) -> None:
    """Stop at the first evaluation where the knee is confirmed, without seeing the rest."""
    right, false, delays = [], [], []
    for run in draw_runs(count, seed + 100):
        answers = ((n, ours(run, n)) for n in range(1, len(run.steps) + 1))
        stop = next(((n, knee.knee_step) for n, knee in answers if knee.confirmed), None)
        if run.knee is None:
            false.append(stop is not None)
        else:
            right.append(stop is not None and is_right(run, stop[1]))
            delays += [(run.steps[stop[0] - 1] - run.knee) / run.every] if stop else []
    table = Table("online", "", title=f"a run stopped as soon as its knee is confirmed, {count} runs")
    table.add_row("checkpoint within one evaluation of the knee", percent(right))
    table.add_row("never confirmed", percent([False] * len(delays) + [True] * (len(right) - len(delays))))
    table.add_row("still improving, but stopped", percent(false))
    middle, late = np.quantile(delays, [0.5, 0.9])
    table.add_row("evaluations after the knee, median and 90%", f"{middle:.0f} and {late:.0f}")
    OUT.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2026)
    args = parser.parse_args()
    runs = draw_runs(args.runs, args.seed)
    OUT.print(
        f"{args.runs} runs, seed {args.seed}, {KneeConfig()}; knee 48k, unstable from about 200k, every 8k"
    )
    knees = [ours(run) for run in runs]
    detail(runs, knees)
    secondary(runs, knees)
    methods: dict[str, Locate] = {
        "ours": lambda run: ours(run).knee_step,
        "97% of the best smoothed value": share_of_best,
        "robust exponential": exponential,
        "kneed": kneedle,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kneed warns where it finds nothing
        compare(runs, methods)
    layouts(args.runs // 5, args.seed)
    online(args.runs // 3, args.seed)


if __name__ == "__main__":
    main()
