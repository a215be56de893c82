"""A model of noisy validation metrics: saturating curves, up to the onset of an oscillation.

A metric u steps after the first evaluation is modelled as start + gain * (1 - r(u / knee)). The remaining
gain r falls from 1 at the first evaluation to 1 - GAIN at the knee:

    r(x) = e_q(-z x^p),    e_q(-v) = (1 + q v)^(-1 / q), cut at 0,    e_0(-v) = exp(-v)

e_q is the q-exponential of Tsallis (J. Stat. Phys. 52, 1988): q = -1 is a straight line that ends in a kink,
0 an exponential, q > 0 a power law with exponent 1 / q. p > 1 starts slowly, like a logistic. The grid of
knees reaches far beyond the last evaluation, where the knee of a curve that still improves lies.

The noise follows Student's t, so an outlier costs little. Start and gain of each curve of the family follow
from weighted least squares in closed form, so a few matrix products fit all curves at once.

For each evaluation k that could be the onset of an oscillation, the good phase before k is fitted alone, and
the evaluations from k on are modelled as noise around that curve, at least `swing` times as large. A metric's
evidence for k is the log-likelihood ratio of this model to a single good phase up to the end. Growing swings,
a dropping level and exploding values all give evidence; an outlier or a metric that keeps improving does not.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAIN = 0.97
"""Share of the whole gain, from the first evaluation to the plateau, that a metric has made at its knee."""

_SHAPES = tuple((q, p) for p in (0.75, 1.0, 1.5, 2.5, 6.0) for q in (-1.0, -0.5, 0.0, 0.3, 0.6, 1.5))
_BEYOND = np.geomspace(1.05, 100, 40)
"""Knees after the last evaluation, in lengths of the run."""
_DEGREES = 4.0
"""Degrees of freedom of Student's t."""
_ROUNDS = 5
_ROUGH = 7
"""Stride through the family when searching the onset; coprime to the number of shapes, so all are tried."""
_PARAMETERS = 3
"""Degrees of freedom that a fit uses: start, gain and knee."""
_INDEPENDENCE = 0.5
"""Independent values per evaluation: noise is correlated, and no metric follows the family exactly."""
_NOISE_FLOOR = 0.004
"""Least noise relative to a metric's range; smaller residuals come from the family's own misfit."""


@dataclass(frozen=True)
class Family:
    """All curves of the family at the evaluations of one run.

    `knees` (K,) are positions in steps after the first evaluation, ascending. `prior` (K,) is uniform in
    their logarithm. `gained` (K * shapes, n) is 1 - r, knee by knee. `early` and `late` (K, shapes) are the
    positions at which a curve has made 90% and 99% of its gain.
    """

    knees: Floats
    prior: Floats
    gained: Floats
    early: Floats
    late: Floats

    @classmethod
    @lru_cache(maxsize=64)
    def at(cls, evaluations: tuple[float, ...], left: float = 1 - GAIN) -> "Family":
        """Return the family at n >= 3 `evaluations`, in steps after the first one, ascending from 0.

        `left` is the share of the gain since the first evaluation that remains at the knee.
        """
        offsets = np.array(evaluations)
        inside = np.sort(np.concatenate([offsets[1:], (offsets[1:-1] + offsets[2:]) / 2]))
        knees = np.concatenate([inside, offsets[-1] * _BEYOND])
        prior = np.gradient(np.log(knees))
        x = offsets / knees[:, None]
        gained = np.stack([1 - _remaining(x, q, p, left) for q, p in _SHAPES], axis=1)
        early, late = (
            np.array([_where(min(share * left / (1 - GAIN), 0.999), q, p, left) for q, p in _SHAPES])
            for share in (0.1, 0.01)
        )
        gained = gained.reshape(-1, len(offsets))
        return cls(knees, prior / prior.sum(), gained, knees[:, None] * early, knees[:, None] * late)


def _where(remaining: float, q: float, p: float, at_knee: float) -> float:
    """Return the x at which the remaining gain is `remaining`."""

    def power(share: float) -> float:
        return -math.log(share) if q == 0 else (share**-q - 1) / q

    return float((power(remaining) / power(at_knee)) ** (1 / p))


def _remaining(x: Floats, q: float, p: float, at_knee: float) -> Floats:
    if q == 0:
        return np.asarray(at_knee ** (x**p))
    z = (at_knee**-q - 1) / q
    return np.asarray(np.maximum(1 + q * z * x**p, 0) ** (-1 / q))


@dataclass(frozen=True)
class Fit:
    """Curves fitted to columns of values, each column with its own choice of points.

    `log_likelihood` (curves, columns) is relative to the best curve. `curve` (n, columns) is the best curve
    at all points, `noise` (columns,) the scale of the noise around it.
    """

    log_likelihood: Floats
    curve: Floats
    noise: Floats


def fit_curves(gained: Floats, values: Floats, chosen: Mask) -> Fit:
    """Fit curves `gained` (curves, n) to `values` (n, columns), higher is better, at the `chosen` points.

    Other values may be NaN. A gain is never negative: a column that only gets worse is fitted by a constant.
    """
    y = np.where(chosen, values, 0.0)
    count = chosen.sum(0)
    low = np.where(chosen, values, np.inf).min(0, initial=np.inf)
    high = np.where(chosen, values, -np.inf).max(0, initial=-np.inf)
    floor = np.maximum(_NOISE_FLOOR * (high - low), 1e-12)
    squared = gained**2
    columns = np.arange(y.shape[1])
    weight = robust = chosen.astype(np.float64)
    for turn in range(_ROUNDS):
        weight = weight / np.maximum(weight.sum(0), 1e-12)
        mean_y, mean_h = (weight * y).sum(0), gained @ weight
        var_y = (weight * (y - mean_y) ** 2).sum(0)
        var_h = np.maximum(squared @ weight - mean_h**2, 1e-12)
        covariance = np.maximum(gained @ (weight * y) - mean_h * mean_y, 0)
        explained = covariance**2 / var_h
        best = explained.argmax(0)
        gain = covariance[best, columns] / var_h[best, columns]
        curve = mean_y + gain * (gained[best].T - mean_h[best, columns])
        residual = np.where(chosen, values - curve, 0.0)
        if turn == 0:
            # outliers may bend the first curve, but not the median
            noise = 1.4826 * masked_median(np.abs(residual), chosen)
        else:
            noise = np.sqrt((robust * residual**2).sum(0) / np.maximum(count - _PARAMETERS, 1))
        noise = np.maximum(noise, floor)
        weight = robust = chosen * student_weight(residual, noise)
    variance = np.maximum(var_y - explained, floor**2)
    log_likelihood = -0.5 * _INDEPENDENCE * np.maximum(count - _PARAMETERS, 0) * np.log(variance)
    return Fit(log_likelihood - log_likelihood.max(0), curve, noise)


def student_weight(residual: Floats, noise: Floats) -> Floats:
    """Return the weights of residuals in the maximum likelihood of Student's t: about 1, low for outliers."""
    return np.asarray((_DEGREES + 1) / (_DEGREES + (residual / noise) ** 2))


def masked_median(values: Floats, chosen: Mask) -> Floats:
    """Return the (lower) median of the chosen values over the first axis; 0 where none is chosen."""
    ordered = np.sort(np.where(chosen, values, np.inf), axis=0)
    count = chosen.sum(0)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, 0.0)


SHORTEST_GOOD_PHASE = 5
"""Least number of evaluations in a good phase, below which none is fitted."""
_SHORTEST_TAIL = 3
_MOST_ONSETS = 50
"""Largest number of evaluations tried as the onset; in longer runs every second (third, ...) one is tried."""
_EVIDENCE = 8.0
"""Least evidence for an onset, in nats: the sum over the metrics divided by sqrt(metrics)."""
_MOST = 16.0
"""Largest evidence of one metric for or against an onset, in nats."""
_FALL = 2.5
"""Falls this many noise units below the level before an onset count; it needs more than one per metric."""


def good_phase(family: Family, values: Floats, swing: float) -> tuple[int, Floats]:
    """Find the end of the good phase of `values` (n, metrics): the onset of an oscillation, or n.

    Also return the probability of each curve according to each metric, (K, shapes, metrics); it is the prior
    for a metric that shows no gain. Higher is better, NaN is missing; n is at least `SHORTEST_GOOD_PHASE`.
    """
    n, metrics = values.shape
    stride = -(-n // _MOST_ONSETS)
    ends = np.array([*range(SHORTEST_GOOD_PHASE, n - _SHORTEST_TAIL + 1, stride), n])
    finite = np.isfinite(values)[:, :, None]
    before = np.arange(n)[:, None, None] < ends
    good, tail = finite & before, finite & ~before
    columns = np.repeat(values, len(ends), axis=1)
    rough = fit_curves(family.gained[::_ROUGH], columns, good.reshape(n, -1))
    curve, noise = rough.curve.reshape(n, metrics, -1), rough.noise.reshape(metrics, -1)
    # an onset must beat the best curve of the whole family for all evaluations
    whole = fit_curves(family.gained, values, finite[:, :, 0])
    curve[:, :, -1], noise[:, -1] = whole.curve, whole.noise
    residual = np.where(finite, values[:, :, None] - curve, 0.0)
    evidence = _evidence(residual, noise, good, tail, swing)

    level = np.take_along_axis(curve, (ends - 1)[None, None], axis=0)
    fallen = tail & (np.where(finite, values[:, :, None], np.inf) < level - _FALL * noise)
    agreed = (evidence > 1).mean(0) > 0.5
    loud = np.clip(evidence, -_MOST, _MOST).sum(0) / np.sqrt(metrics) > _EVIDENCE
    likely = np.flatnonzero(loud & agreed & (fallen.sum((0, 1)) > metrics))
    # a sum of roots keeps one metric with large evidence from outvoting the others about the place
    place = np.sqrt(np.maximum(evidence[:, likely], 0)).sum(0)
    # the first swings are small: take the earliest of the places that are almost as good as the best
    chosen = int(likely[(place >= 0.95 * place.max()).argmax()]) if likely.size else len(ends) - 1
    end = int(ends[chosen])
    fit = whole if end == n else fit_curves(family.gained[:, :end], values[:end], finite[:end, :, 0])
    likelihood = np.exp(fit.log_likelihood).reshape(*family.early.shape, metrics)
    posterior = likelihood * family.prior[:, None, None]
    return end, posterior / posterior.sum((0, 1))


def _evidence(residual: Floats, noise: Floats, good: Mask, tail: Mask, swing: float) -> Floats:
    """Return (metrics, ends), the log-likelihood ratio of two phases to one, in nats."""
    count = np.maximum(tail.sum(0), 1)
    wild = np.maximum(swing * noise, 1.4826 * masked_median(np.abs(residual), tail))
    for _ in range(5):
        weighted = tail * student_weight(residual, wild) * residual**2
        wild = np.maximum(swing * noise, np.sqrt(weighted.sum(0) / count))
    scale = np.where(good, noise, wild)
    # log density of Student's t, up to a constant
    log_density = -np.log(scale) - 0.5 * (_DEGREES + 1) * np.log1p((residual / scale) ** 2 / _DEGREES)
    density = np.where(good | tail, log_density, 0.0).sum(0)
    return np.asarray(density - density[:, -1:])
