"""Ten families of synthetic runs, for the tests and `research/knee_study.py`.

The truth about a run is a range of steps: from where the noise-free curve has made 90% of its gain to where it
has made 99%, or the last evaluation before the oscillation if that comes first. The gain of a curve that saturates is
the one it would make in the end; of one that never does, the one it makes before the oscillation, and its range
ends at the last evaluation before that. A knee within one evaluation of the range is right, unless it lies in
the oscillation. A run that still improves has no range: any knee is a false alarm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Curve = Callable[[Array], Array]

FAMILIES = (
    "exponential",
    "power law",
    "logarithmic",
    "sigmoid",
    "late rise",
    "disagreeing metrics",
    "small noisy validation",
    "one metric",
    "learning-rate steps",
    "loss column",
    "loss column that votes",
)
"""The last two differ in the name of the column: `loss`, which has no vote, and `l1`, which has one."""
_EVERY = 8_000
_FINE = 20
"""Points of the noise-free curve for each evaluation."""


@dataclass(frozen=True)
class FamilyRun:
    """A run as a detector sees it, and the truth about it: `right` is None while the run still improves.

    `rates`: step -> learning rate, over the whole schedule, also beyond the last evaluation.
    """

    steps: list[int]
    curves: dict[str, list[float]]
    higher_is_better: dict[str, bool]
    right: tuple[float, float] | None
    onset: float | None
    rates: dict[int, float]

    def is_right(self, knee: int | None) -> bool:
        """Whether a detector's answer for the whole run, or for a beginning of it, is right."""
        if self.right is None or knee is None:
            return self.right is None and knee is None
        low, high = self.right
        before_onset = self.onset is None or knee < self.onset
        return low - _EVERY <= knee <= high + _EVERY and before_onset


def family_run(rng: np.random.Generator, family: str, improving: bool = False) -> FamilyRun:
    """Draw one run of a family; `improving`: one that ends before its plateau, without oscillation."""
    count = int(rng.integers(26, 46))
    steps = _EVERY * np.arange(1, count + 1)
    fine = np.linspace(0, 1, (count - 1) * _FINE + 1)
    metrics = 1 if family == "one metric" else int(rng.integers(2, 6))
    drops: list[int] = []
    if family == "learning-rate steps":
        gain, drops, settled = _staircase(rng, fine, count, improving)
    else:
        gain, settled = _gain(rng, family, fine, improving)
    first_onset = min(int(settled * (count - 1)) + 5, count - 6)
    wild = not improving and (family == "logarithmic" or rng.random() < 0.8)
    onset = int(rng.integers(first_onset, count - 4)) if wild else None
    right = None
    if not improving:
        last = count - 1 if onset is None else onset - 1
        if family == "logarithmic":
            gain /= gain[last * _FINE]
        low = np.argmax(gain >= 0.9) / _FINE
        high = (
            np.argmax(gain >= 0.99) / _FINE
            if gain[last * _FINE] >= 0.99 and family != "logarithmic"
            else last
        )
        right = (_EVERY * (1 + low), _EVERY * (1 + min(high, last)))

    noisy = family == "small noisy validation"
    sigma = 10 ** (rng.uniform(-1.4, -1.0, metrics) if noisy else rng.uniform(-2.5, -1.5, metrics))
    values = gain[::_FINE, None] + sigma * _noise(rng, count, metrics)
    if onset is not None:
        swing = rng.uniform(0.2, 0.4) if noisy else rng.uniform(0.06, 0.15)
        growth = np.linspace(1, rng.uniform(2, 5), count - onset)[:, None]
        drift = rng.uniform(-0.3, 0.05) * np.linspace(0, 1, count - onset)[:, None]
        values[onset:] += drift + swing * growth * rng.standard_normal((count - onset, metrics))
    if family == "disagreeing metrics":
        values = _disagreeing(rng, values, sigma)
    names = [f"metric_{i}" for i in range(values.shape[1])]
    if family.startswith("loss column"):
        names.append("l1" if family.endswith("votes") else "loss")
        x = np.linspace(0, 1, count)
        falling = 1 - (1 + rng.uniform(10, 40) * x) ** -rng.uniform(0.3, 0.8)
        values = np.hstack([values, (falling + 0.002 * rng.standard_normal(count))[:, None]])
    higher = rng.random(len(names)) < 0.5
    values = values * np.where(higher, 1, -1) * 10 ** rng.uniform(-2, 2, len(names))
    end = max([count, *(drop + 1 for drop in drops)])
    return FamilyRun(
        steps.tolist(),
        {name: values[:, i].tolist() for i, name in enumerate(names)},
        dict(zip(names, higher.tolist(), strict=True)),
        right,
        None if onset is None else float(steps[onset]),
        {_EVERY * (i + 1): 1e-3 * 0.2 ** sum(i >= drop for drop in drops) for i in range(end)},
    )


def _gain(rng: np.random.Generator, family: str, x: Array, improving: bool) -> tuple[Array, float]:
    """Noise-free gain at `x` in 0..1, the share of the run, and where it has settled."""
    curve = _curve(rng, family)
    if family == "logarithmic":
        return curve(x) / curve(np.ones(1)), 0.45
    share = rng.uniform(0.4, 0.9) if improving else 0.97
    settled = (
        1.0
        if improving
        else float(rng.uniform(0.12, 0.45) if family != "late rise" else rng.uniform(0.35, 0.6))
    )
    gain = curve(x * _where(curve, share) / settled)
    return gain / (gain[-1] if improving else 1), settled


def _curve(rng: np.random.Generator, family: str) -> Curve:
    """A curve from 0 at 0, to 1 at infinity but for the logarithm; its scale in x does not matter."""
    power, steep = rng.uniform(1.5, 4), rng.uniform(10, 100)
    middle = rng.uniform(6, 10) if family == "late rise" else rng.uniform(2, 4)
    start = 1 / (1 + np.exp(middle))
    curves: dict[str, Curve] = {
        "exponential": lambda x: 1 - np.exp(-x),
        "power law": lambda x: 1 - (1 + x) ** -power,
        "logarithmic": lambda x: np.log1p(steep * x),
        "sigmoid": lambda x: (1 / (1 + np.exp(middle - x)) - start) / (1 - start),
        "tanh": np.tanh,
    }
    if family == "late rise":
        return curves["sigmoid"]
    return (
        curves[family]
        if family in curves
        else curves[str(rng.choice(["exponential", "power law", "sigmoid", "tanh"]))]
    )


def _where(curve: Curve, gain: float) -> float:
    """The x at which a rising curve reaches `gain`."""
    x = np.geomspace(1e-3, 1e3, 20_000)
    return float(x[np.argmax(curve(x) >= gain)])


def _staircase(
    rng: np.random.Generator, x: Array, count: int, improving: bool
) -> tuple[Array, list[int], float]:
    """A gain that settles, and rises anew where the learning rate falls; the evaluations where it has fallen.

    A run that still improves ends soon after a fall, or on a plateau before one that is planned.
    """
    falls = int(rng.integers(1, 4))
    last = rng.uniform(0.35, 0.6)
    if improving:
        last = rng.uniform(0.9, 0.95) if rng.random() < 0.5 else rng.uniform(1.02, 1.3)
    places = last * np.arange(1, falls + 1) / falls
    drops = [round(place * (count - 1)) for place in places]
    gain = 1 - np.exp(-x / (rng.uniform(0.15, 0.4) * places[0]))
    size, pace = 1.0, 0.0
    for drop in drops:
        size, pace = size * rng.uniform(0.25, 0.5), rng.uniform(0.02, 0.05)
        since = np.maximum(x - (drop - 1) / (count - 1), 0)
        gain = gain + size * (1 - np.exp(-since / (0.2 if improving else pace)))
    return gain / gain.max(), drops, last + 4 * pace


def _noise(rng: np.random.Generator, count: int, metrics: int) -> Array:
    """Unit variance; up to half of it common to all metrics."""
    shared = rng.uniform(0, 0.5)
    common = np.sqrt(shared) * rng.standard_normal((count, 1))
    return np.asarray(common + np.sqrt(1 - shared) * rng.standard_normal((count, metrics)))


def _disagreeing(rng: np.random.Generator, values: Array, sigma: Array) -> Array:
    """Add metrics that contradict, one or (to four and more) two: a fall, a rise, a walk, noise, an early knee."""
    count, metrics = values.shape
    x = np.linspace(0, 1, count)
    others = []
    for _ in range(1 if metrics < 4 else 2):
        walk = np.cumsum(rng.standard_normal(count)) / np.sqrt(count)
        other = (-x, x, walk, rng.standard_normal(count), 1 - np.exp(-8 * x))[rng.integers(5)]
        others.append(other + sigma[0] * rng.standard_normal(count))
    return np.column_stack([values, *others])
