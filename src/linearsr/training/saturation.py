"""Saturating curves with an onset of oscillation: what noisy validation metrics say of where they stop improving.

A metric u steps after the first evaluation is modelled as start + gain * (1 - r(u / knee)). What remains to
be gained, r, falls from 1 at the first evaluation to 1 - GAIN at the knee:

    r(x) = e_q(-z x^p),    e_q(-v) = (1 + q v)^(-1 / q), cut at 0,    e_0(-v) = exp(-v)

e_q is the q-exponential of Tsallis (J. Stat. Phys. 52, 1988): q = -1 is a straight line that ends in a kink,
0 an exponential, q > 0 a power law with exponent 1 / q. p > 1 starts slowly, like a logistic. The grid of
knees reaches far beyond the last evaluation: that is where the knee of a curve that still improves lies.

Noise is Student's t, so an outlier costs little. Start and gain of each member of the family follow from
weighted least squares in closed form, so all members are fitted at once by a few matrix products.

For each evaluation k that could be the onset of oscillation, the good phase before k is fitted alone, and the
evaluations from k on are taken as noise around that curve, at least `swing` times as large. The logarithm of how much
likelier this makes a metric than one good phase to the end is its evidence for k. Swings that grow, a level
that drops and values that explode all show so; an outlier or a metric that only goes on improving does not.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAIN = 0.97
"""Share of its whole gain, from the first evaluation to the plateau, that a metric has made at its knee."""

_SHAPES = tuple((q, p) for p in (0.75, 1.0, 1.5, 2.5, 6.0) for q in (-1.0, -0.5, 0.0, 0.3, 0.6, 1.5))
_BEYOND = np.geomspace(1.05, 100, 40)
"""Knees after the last evaluation, in lengths of the run."""
_DEGREES = 4.0
"""Degrees of freedom of Student's t."""
_ROUNDS = 5
_ROUGH = 7
"""For the onset, each such member of the family is tried: it shares no divisor with the number of shapes."""
_PARAMETERS = 3
"""What a fit uses up of its points: start, gain and knee."""
_INDEPENDENCE = 0.5
"""Independent values that one evaluation counts for: noise is correlated, and no metric is of the family."""
_NOISE_FLOOR = 0.004
"""Least noise, as a share of a metric's range: below it the misfit of the family is what is left over."""


@dataclass(frozen=True)
class Family:
    """All curves of the family at the evaluations of one run.

    `knees` (K,) are positions in steps after the first evaluation, ascending. `prior` (K,) is uniform in the
    logarithm. `gained` (K * shapes, n) is 1 - r, knee by knee. `early` and `late` (K, shapes) are where a curve
    has made 90% and 99% of its gain.
    """

    knees: Floats
    prior: Floats
    gained: Floats
    early: Floats
    late: Floats

    @classmethod
    @lru_cache(maxsize=64)
    def at(cls, evaluations: tuple[float, ...], left: float = 1 - GAIN) -> "Family":
        """The family at `evaluations`, n steps after the first evaluation: ascending from 0, n >= 3.

        `left` is the share of the gain from there that is still to be made at the knee.
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
    """The x at which so much remains to be gained."""

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
    """Curves fitted to columns of values, each with its own choice of points.

    `log_likelihood` (curves, columns) is that of each curve. `curve` (n, columns) is the best one, at all points;
    `noise` (columns,) the scale around it.
    """

    log_likelihood: Floats
    curve: Floats
    noise: Floats


def fit_curves(gained: Floats, values: Floats, chosen: Mask) -> Fit:
    """Fit curves `gained` (curves, n) to `values` (n, columns), higher is better, at the `chosen` points.

    Elsewhere values may be NaN. A gain is never negative: a column that only gets worse is fitted by a constant.
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
            # the first curve may be bent by outliers: the median is not
            noise = 1.4826 * masked_median(np.abs(residual), chosen)
        else:
            noise = np.sqrt((robust * residual**2).sum(0) / np.maximum(count - _PARAMETERS, 1))
        noise = np.maximum(noise, floor)
        weight = robust = chosen * student_weight(residual, noise)
    variance = np.maximum(var_y - explained, floor**2)
    log_likelihood = -0.5 * _INDEPENDENCE * np.maximum(count - _PARAMETERS, 0) * np.log(variance)
    return Fit(log_likelihood - log_likelihood.max(0), curve, noise)


def student_weight(residual: Floats, noise: Floats) -> Floats:
    """Weight of each residual in the maximum likelihood of Student's t: about 1, and little for outliers."""
    return np.asarray((_DEGREES + 1) / (_DEGREES + (residual / noise) ** 2))


def masked_median(values: Floats, chosen: Mask) -> Floats:
    """The (lower) median over the first axis of the chosen values; 0 where none is chosen."""
    ordered = np.sort(np.where(chosen, values, np.inf), axis=0)
    count = chosen.sum(0)
    middle = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    return np.where(count > 0, middle, 0.0)


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


def good_phase(family: Family, values: Floats, swing: float) -> tuple[int, Floats]:
    """Where the good phase of `values` (n, metrics) ends, at an onset of oscillation or n, and what it tells.

    That is the probability of each curve by a metric alone (K, shapes, metrics); the prior where it shows no gain.
    Higher is better, NaN is missing; n is at least `SHORTEST_GOOD_PHASE`.
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
    # an onset must beat the best curve that there is for all evaluations
    whole = fit_curves(family.gained, values, finite[:, :, 0])
    curve[:, :, -1], noise[:, -1] = whole.curve, whole.noise
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
    end = int(ends[chosen])
    fit = whole if end == n else fit_curves(family.gained[:, :end], values[:end], finite[:end, :, 0])
    likelihood = np.exp(fit.log_likelihood).reshape(*family.early.shape, metrics)
    posterior = likelihood * family.prior[:, None, None]
    return end, posterior / posterior.sum((0, 1))


def _evidence(residual: Floats, noise: Floats, good: Mask, tail: Mask, swing: float) -> Floats:
    """(metrics, ends): how much likelier two phases are than one, in nats."""
    count = np.maximum(tail.sum(0), 1)
    wild = np.maximum(swing * noise, 1.4826 * masked_median(np.abs(residual), tail))
    for _ in range(5):
        weighted = tail * student_weight(residual, wild) * residual**2
        wild = np.maximum(swing * noise, np.sqrt(weighted.sum(0) / count))
    scale = np.where(good, noise, wild)
    # that of Student's t, up to a constant
    log_density = -np.log(scale) - 0.5 * (_DEGREES + 1) * np.log1p((residual / scale) ** 2 / _DEGREES)
    density = np.where(good | tail, log_density, 0.0).sum(0)
    return np.asarray(density - density[:, -1:])
