"""The onset of oscillation: the change-point at which validation metrics leave the trend of the good phase.

For each evaluation k that could be the onset, the good phase before k is fitted alone, and the evaluations
from k on are taken as noise around that curve, at least `swing` times as large. The logarithm of how much
likelier this makes a metric than one good phase to the end is its evidence for k. Swings that grow, a level
that drops and values that explode all show so; an outlier or a metric that only goes on improving does not.
"""

from dataclasses import dataclass

import numpy as np

from linearsr.training.saturation import (
    Family,
    Floats,
    Mask,
    fit_family,
    masked_median,
    student_log_density,
    student_weight,
)

SHORTEST_GOOD_PHASE = 5
"""Evaluations that a good phase must have to be fitted at all."""
_SHORTEST_TAIL = 3
_MOST_ONSETS = 50
"""Of longer runs every second evaluation (third, ...) is tried as the onset."""
_EVIDENCE = 8.0
"""Evidence that makes an onset, in nats; of several metrics: their sum over sqrt(metrics)."""
_MOST = 16.0
"""What one metric can say at most, for an onset or against it."""
_FALL = 2.5
"""After an onset, metrics fall more than once each, on average, so many times their noise below the level before."""


@dataclass(frozen=True)
class GoodPhase:
    """Evaluations up to `end` (the onset, or all of them), and what they say about the knee.

    `posterior` (K, metrics): see `saturation.Fit`.
    """

    end: int
    posterior: Floats


def good_phase(family: Family, values: Floats, swing: float) -> GoodPhase:
    """Split `values` (n, metrics) at the onset of oscillation, if there is one.

    Higher is better, NaN is missing; n is at least `SHORTEST_GOOD_PHASE`.
    """
    n, metrics = values.shape
    stride = -(-n // _MOST_ONSETS)
    ends = np.array([*range(SHORTEST_GOOD_PHASE, n - _SHORTEST_TAIL + 1, stride), n])
    finite = np.isfinite(values)[:, :, None]
    before = np.arange(n)[:, None, None] < ends
    good, tail = finite & before, finite & ~before
    columns = np.repeat(values, len(ends), axis=1)
    fit = fit_family(family, columns, good.reshape(n, -1))
    curve, noise = fit.curve.reshape(n, metrics, -1), fit.noise.reshape(metrics, -1)
    residual = np.where(finite, values[:, :, None] - curve, 0.0)
    evidence = _evidence(residual, noise, good, tail, swing)

    level = np.take_along_axis(curve, (ends - 1)[None, None], axis=0)
    fallen = tail & (np.where(finite, values[:, :, None], np.inf) < level - _FALL * noise)
    agreed = (evidence > 1).mean(0) > 0.5
    loud = np.clip(evidence, -_MOST, _MOST).sum(0) / np.sqrt(metrics) > _EVIDENCE
    likely = np.flatnonzero(loud & agreed & (fallen.sum((0, 1)) > metrics))
    # in a sum of roots one loud metric does not outvote the others about the place
    place = np.sqrt(np.maximum(evidence[:, likely], 0)).sum(0)
    # the first swings are small: of places that are almost as good, the earliest
    chosen = int(likely[(place >= 0.95 * place.max()).argmax()]) if likely.size else len(ends) - 1
    return GoodPhase(int(ends[chosen]), fit.posterior.reshape(-1, metrics, len(ends))[:, :, chosen])


def _evidence(residual: Floats, noise: Floats, good: Mask, tail: Mask, swing: float) -> Floats:
    """(metrics, ends): how much likelier two phases are than one, in nats."""
    count = np.maximum(tail.sum(0), 1)
    wild = np.maximum(swing * noise, 1.4826 * masked_median(np.abs(residual), tail))
    for _ in range(5):
        weighted = tail * student_weight(residual, wild) * residual**2
        wild = np.maximum(swing * noise, np.sqrt(weighted.sum(0) / count))
    scale = np.where(good, noise, wild)
    density = np.where(good | tail, student_log_density(residual, scale), 0.0).sum(0)
    return np.asarray(density - density[:, -1:])
