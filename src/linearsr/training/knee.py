"""The knee of validation curves, from which the next stage starts (ESGF, early-stopping guided fine-tuning).

Validation metrics improve, reach a plateau, then oscillate more and more, while the training loss keeps
falling. The knee is the last checkpoint of the improvement: the step at which the metrics have made 97% of
their gain, always before the oscillation. How to find it is not published; this is our own method:

1. `saturation.good_phase` finds the evaluation, if any, from which on the metrics leave their trend;
2. from the evaluations before it, it also computes for each metric how likely each position of the knee is;
3. the metrics vote: their probabilities are multiplied, each assumed to be misled with probability 5%.

After a drop of the learning rate, only the evaluations since then count, with the gain of the whole run.
`research/knee_study.py` tests the method on families of synthetic runs.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from pydantic import Field

from linearsr.training.saturation import GAIN, SHORTEST_GOOD_PHASE, Family, Floats, good_phase
from linearsr.training.section import Section

Phase = Literal["improving", "plateau", "oscillating"]

_MISLED = 0.05
_MIDDLE = 0.4
"""Quantile of the knee's position to return: a little early is better than late."""
_MOST_EVALUATIONS = 150
"""Longer runs are pooled to about this many, which finds the knee to within 1/150 of the run."""
_HUGE = 1e100
"""Values are clipped to this size, so that their differences stay finite."""
_DROP = 0.7
"""Largest ratio of successive learning rates that counts as a drop."""
_TRAILING = 2
"""Number of final evaluations without any finite value that make a divergence; fewer are a gap."""


class KneeConfig(Section):
    """The curves that vote, and the evidence needed for a plateau, a knee and an oscillation."""

    metrics: tuple[str, ...] = ("*",)
    """Name patterns of the curves that vote, e.g. `*/mean/*`: the curves that should improve. `*` leaves out
    `loss` and `train*`, because the training loss keeps falling while the others oscillate."""
    patience: int = Field(4, ge=1)
    """Number of evaluations that a plateau must last, unless an oscillation cuts it short."""
    certainty: float = Field(0.9, gt=0.5, lt=1)
    """Least probability of a plateau to be accepted, and of its knee to be confirmed."""
    swing: float = Field(2.0, gt=1)
    """Least ratio of the noise of an oscillation to that of the good phase."""


@dataclass(frozen=True)
class Knee:
    """The knee and the phases of a run, as found from its validation curves.

    `knee_step` is one of the evaluated steps; None means no plateau yet. `onset_step` is the first evaluation
    of the oscillation (or divergence), or None. `confidence`, 0 to 1, is the probability that `knee_step`
    lies within one evaluation of where the metrics have made 90% to 99% of their gain; without a knee, that
    there is no plateau yet (0: too few points to tell). `confirmed` means that the run can stop. `phases` has
    one entry per step; without a knee, all evaluations before the onset count as improving.
    """

    knee_step: int | None
    onset_step: int | None
    confidence: float
    confirmed: bool
    steps: tuple[int, ...]
    phases: tuple[Phase, ...]

    def spans(self) -> dict[Phase, tuple[int, int] | None]:
        """Return the first and last step of each phase; None for a phase that the run does not have."""
        spans: dict[Phase, tuple[int, int] | None] = {}
        for name in get_args(Phase):
            steps = [step for step, phase in zip(self.steps, self.phases, strict=True) if phase == name]
            spans[name] = (steps[0], steps[-1]) if steps else None
        return spans


def votes(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the curve called `name` votes under these patterns."""
    training = name.lower() == "loss" or name.lower().startswith("train")
    return any(fnmatchcase(name, pattern) for pattern in patterns if not (training and pattern == "*"))


def find_knee(
    steps: Sequence[int],
    curves: Mapping[str, Sequence[float | None]],
    higher_is_better: Mapping[str, bool],
    config: KneeConfig | None = None,
    rates: Mapping[int, float] | None = None,
) -> Knee:
    """Find the knee of a run, finished or in progress; a run may stop once the answer is `confirmed`.

    Args:
        steps: steps (or images) of the evaluations, rising; with too few of them there is no knee yet.
        curves: metric -> its value at each step; None, NaN or infinite if it has none. If no metric has any
            value from some step to the end, the run is assumed to have diverged there.
        higher_is_better: metric -> its direction.
        rates: step -> learning rate, at any steps of the schedule, including future ones. A drop of 30% or
            more makes curves improve again: only a plateau after the last drop counts.

    Raises:
        ValueError: when steps do not rise, a curve has another length, or a metric has no direction.
    """
    for before, after in pairwise(steps):
        if not after > before:
            raise ValueError(f"steps must rise: {after} follows {before}")
    for name, curve in curves.items():
        if len(curve) != len(steps):
            raise ValueError(f"{name}: {len(curve)} values for {len(steps)} steps")
        if name not in higher_is_better:
            raise ValueError(f"{name}: is higher or lower better?")
    config = config or KneeConfig()
    curves = {name: curve for name, curve in curves.items() if votes(name, config.metrics)}
    if not steps or not curves:
        return _answer(steps, knee=None, onset=None, confidence=0.0, confirmed=False)
    values = np.array([np.asarray(curve, np.float64) for curve in curves.values()]).T
    values = values * [1.0 if higher_is_better[name] else -1.0 for name in curves]
    values[~np.isfinite(values)] = np.nan
    values = np.clip(values, -_HUGE, _HUGE)
    last_steps, first_steps, values = _pool(np.asarray(steps), values)

    alive = int(np.flatnonzero(np.isfinite(values).any(1)).max(initial=-1)) + 1
    if len(values) - alive < _TRAILING:
        alive = len(values)
    scheduled = pairwise(sorted((rates or {}).items()))
    drops = np.array([step for (_, before), (step, after) in scheduled if after <= _DROP * before])
    done = drops[drops <= last_steps[-1]]
    start = max(int(np.searchsorted(last_steps, done[-1])) - 1, 0) if done.size else 0
    left = (1 - GAIN) * (_whole_gain(values[:alive], start) if 0 < start < alive - 1 else 1)
    found = _search(last_steps[start:alive], values[start:alive], config, left)
    onset = start + found.end if start + found.end < len(values) else None
    plateau = onset is not None or (found.reached >= config.certainty and done.size == drops.size)
    called = plateau and found.end > 0
    return _answer(
        steps,
        knee=int(last_steps[start + found.index]) if called else None,
        onset=int(first_steps[onset]) if onset is not None else None,
        confidence=found.confidence if called else found.no_plateau,
        confirmed=called and (onset is not None or found.confidence >= config.certainty),
    )


@dataclass(frozen=True)
class _Found:
    """The likeliest knee, its confidence, the probabilities of a plateau, and the end of the good phase."""

    end: int
    index: int
    confidence: float
    reached: float
    no_plateau: float


def _whole_gain(values: Floats, start: int) -> float:
    """Return the gain of the whole run relative to the gain since evaluation `start`: median over metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        top = np.nanquantile(values[start + 1 :], 0.8, axis=0)
        before = np.nanmedian(values[max(start - 2, 0) : start + 1], axis=0)
        ratio = (top - values[0]) / (top - before)
    ratio = np.where(ratio > 1, ratio, np.nan)
    return float(np.nanmedian(ratio)) if np.isfinite(ratio).any() else 1.0


def _search(steps: Floats, values: Floats, config: KneeConfig, left: float) -> _Found:
    n = len(steps)
    # a constant metric, such as one of a frozen part, does not vote
    varies = np.fmax.reduce(values, initial=-np.inf) > np.fmin.reduce(values, initial=np.inf)
    values = _normalised(values[:, varies])
    if n < SHORTEST_GOOD_PHASE or values.shape[1] == 0:
        return _Found(n, n - 1, 0.0, 0.0, 0.0)
    offsets = np.asarray(steps - steps[0], np.float64)
    family = Family.at(tuple(offsets), min(left, 0.5))
    end, posterior = good_phase(family, values, config.swing)
    by_knee = posterior.sum(1)
    votes = np.log((1 - _MISLED) * by_knee / family.prior[:, None] + _MISLED).sum(1)
    inside, prior, knees = offsets[:end], family.prior, family.knees
    early, late = family.early, family.late
    if end < n:
        # a run that still improved when the oscillation began is a priori as likely as one that did not
        beyond = knees > inside[-1]
        prior = np.where(beyond, prior / prior[beyond].sum(), prior / prior[~beyond].sum())
        # its knee is then put before the last good evaluation, which may already be part of the oscillation
        knees, early, late = (np.minimum(place, inside[-2]) for place in (knees, early, late))
    probability = np.exp(votes - votes.max()) * prior
    probability /= probability.sum()
    middle = knees[min(int(np.searchsorted(probability.cumsum(), _MIDDLE)), len(knees) - 1)]
    index = int(np.abs(inside - middle).argmin())

    every = float(np.median(np.diff(offsets))) * (1 + 1e-6)
    good_enough = (early - every <= inside[index]) & (inside[index] <= late + every)
    shapes = posterior.mean(2) / np.maximum(by_knee.mean(1), 1e-300)[:, None]
    confidence = float((good_enough * shapes).sum(1) @ probability)
    lasted = inside[max(end - 1 - config.patience, 0)]
    reached = float(probability[knees <= lasted].sum())
    return _Found(end, index, min(confidence, 1.0), reached, max(1 - reached, 0.0))


def _normalised(values: Floats) -> Floats:
    """Scale each metric to units of its gain; clip values more than 5 units outside, e.g. explosions."""
    scaled = np.empty_like(values)
    for i, column in enumerate(values.T):
        finite = column[np.isfinite(column)]
        start, top = np.median(finite[:3]), np.quantile(finite, 0.9)
        unit = top - start if top > start else np.ptp(finite)
        scaled[:, i] = np.clip((column - start) / unit, -5, (top - start) / unit + 5)
    return scaled


def _pool(steps: Floats, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return last step, first step and median metrics of blocks of evaluations; in most runs a block is 1."""
    size = -(-len(steps) // _MOST_EVALUATIONS)
    if size == 1:
        return steps, steps, values
    blocks = [slice(i, i + size) for i in range(0, len(steps), size)]
    pooled = np.full((len(blocks), values.shape[1]), np.nan)
    for row, block in zip(pooled, blocks, strict=True):
        some = np.isfinite(values[block]).any(0)
        row[some] = np.nanmedian(values[block][:, some], axis=0)
    return np.array([steps[block][-1] for block in blocks]), steps[::size], pooled


def _answer(
    steps: Sequence[int], knee: int | None, onset: int | None, confidence: float, confirmed: bool
) -> Knee:
    def phase(step: int) -> Phase:
        if onset is not None and step >= onset:
            return "oscillating"
        return "improving" if knee is None or step <= knee else "plateau"

    whole = tuple(int(step) for step in steps)
    return Knee(knee, onset, confidence, confirmed, whole, tuple(map(phase, whole)))
