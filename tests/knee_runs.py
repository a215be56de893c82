"""Synthetic validation curves at the published layout, whose knee is known exactly.

The noise-free gain of a metric rises from 0 at the first evaluation to 1. Its true knee is the step at which
it has made 97% of that (a kinked line: its kink), found numerically from the curve itself.
`knee_families` has runs of more kinds and layouts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Kind = Literal["oscillation", "divergence", "still improving"]
Ending = Literal["nan", "collapse", "explosion"]

KNEE_GAIN = 0.97

SHAPES = ("exponential", "power law", "kinked line", "logistic", "stretched", "tanh", "cosine")
ENDLESS = ("straight line", "logarithm", "square root")
"""Shapes that never saturate, only in runs that still improve."""


@dataclass(frozen=True)
class Layout:
    """Steps of evaluation, knee and range of the onset of oscillation, all in training steps."""

    every: int = 8_000
    last: int = 264_000
    knee: float = 48_000
    onset: tuple[float, float] = (184_000, 216_000)

    @property
    def steps(self) -> list[int]:
        return list(range(self.every, self.last + 1, self.every))


PUBLISHED = Layout()

MADE_AT_END = (0.4, 0.9)
"""Share of its final gain that a run which still improves has made at its last evaluation."""


@dataclass(frozen=True)
class SyntheticRun:
    """A run as a detector sees it, and the truth about it (None: there is no such step)."""

    kind: Kind
    shape: str
    noise: float
    steps: list[int]
    curves: dict[str, list[float]]
    higher_is_better: dict[str, bool]
    every: int
    knee: float | None
    onset: float | None
    traits: list[str] = field(default_factory=list)


def synthetic_run(rng: np.random.Generator, kind: Kind, layout: Layout = PUBLISHED) -> SyntheticRun:
    """Draw one run of 1 to 6 metrics.

    Noise per metric: 0.3% to 4% of its gain, partly shared between metrics and correlated in time. Some runs
    have outliers, a glitch of one evaluation, missing values, or one metric that contradicts the others.
    """
    steps = np.array(layout.steps, float)
    count, metrics = len(steps), int(rng.integers(1, 7))
    shape, gain = _gain(rng, kind, steps - steps[0], layout)
    onset = None if kind == "still improving" else _onset(rng, kind, layout)
    sigma = 10 ** rng.uniform(np.log10(0.003), np.log10(0.04), metrics)
    values = gain[:, None] + sigma * _noise(rng, count, metrics)
    traits = _disturb(rng, values, sigma)
    if metrics >= 3 and rng.random() < 0.2:
        values[:, -1] = _contradiction(rng, count) + sigma[-1] * rng.standard_normal(count)
        traits.append("contradiction")
    if onset is not None:
        bad = steps >= onset
        if kind == "oscillation":
            _oscillate(rng, values, bad)
        else:
            traits.append(_diverge(rng, values, bad))
        onset = float(steps[bad][0])
    higher = rng.random(metrics) < 0.5
    values = rng.normal(0, 3, metrics) + 10 ** rng.uniform(-2, 2, metrics) * np.where(higher, 1, -1) * values
    names = [f"metric_{i}" for i in range(metrics)]
    return SyntheticRun(
        kind,
        shape,
        float(np.median(sigma)),
        layout.steps,
        {name: values[:, i].tolist() for i, name in enumerate(names)},
        {name: bool(up) for name, up in zip(names, higher, strict=True)},
        layout.every,
        None if kind == "still improving" else float(layout.knee),
        onset,
        traits,
    )


def _gain(rng: np.random.Generator, kind: Kind, offsets: Array, layout: Layout) -> tuple[str, Array]:
    """Name and noise-free gain (n,) of a shape whose knee lies where the layout says, or beyond the end."""
    if kind == "still improving":
        shape = str(rng.choice(SHAPES + ENDLESS))
        x = offsets / offsets[-1]
        if shape in ENDLESS:
            curve = {"straight line": x, "logarithm": np.log1p(30 * x), "square root": np.sqrt(x)}[shape]
            return shape, curve / curve[-1]
        made = rng.uniform(*MADE_AT_END)
        curve = _rising(rng, shape)
        gain = curve(x * _where(curve, made))
        return shape, gain / made
    shape = str(rng.choice(SHAPES))
    curve = _rising(rng, shape)
    target = 1.0 if shape == "kinked line" else KNEE_GAIN
    return shape, curve(offsets / (layout.knee - layout.every) * _where(curve, target))


def _rising(rng: np.random.Generator, shape: str) -> Callable[[Array], Array]:
    """A curve from 0 at x = 0 to 1 at infinity; its scale in x does not matter."""
    power, stretch, middle = rng.uniform(2, 4), rng.uniform(0.8, 1.5), rng.uniform(2, 4)
    start = 1 / (1 + np.exp(middle))
    curves: dict[str, Callable[[Array], Array]] = {
        "exponential": lambda x: 1 - np.exp(-x),
        "power law": lambda x: 1 - (1 + x) ** -power,
        "kinked line": lambda x: np.minimum(x, 1),
        "logistic": lambda x: (1 / (1 + np.exp(middle - x)) - start) / (1 - start),
        "stretched": lambda x: 1 - np.exp(-(x**stretch)),
        "tanh": np.tanh,
        "cosine": lambda x: 0.5 - 0.5 * np.cos(np.pi * np.minimum(x, 1)),
    }
    return curves[shape]


def _where(curve: Callable[[Array], Array], gain: float) -> float:
    """The x at which a rising curve first reaches `gain`, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if curve(np.array([middle]))[0] < gain else (low, middle)
    return high


def _onset(rng: np.random.Generator, kind: Kind, layout: Layout) -> float:
    if kind == "oscillation":
        return float(rng.uniform(*layout.onset))
    return float(rng.uniform(layout.knee + 4 * layout.every, layout.last - layout.every))


def _noise(rng: np.random.Generator, count: int, metrics: int) -> Array:
    """Unit variance; up to half of it common to all metrics, and up to 0.4 correlated with the one before."""
    shared, memory = rng.uniform(0, 0.5), rng.uniform(0, 0.4)
    white = np.sqrt(shared) * rng.standard_normal((count, 1))
    white = white + np.sqrt(1 - shared) * rng.standard_normal((count, metrics))
    for i in range(1, count):
        white[i] = memory * white[i - 1] + np.sqrt(1 - memory**2) * white[i]
    return white


def _disturb(rng: np.random.Generator, values: Array, sigma: Array) -> list[str]:
    traits = []
    if rng.random() < 0.4:
        hit = rng.random(values.shape) < 0.03
        values += hit * sigma * rng.uniform(5, 15, values.shape) * rng.choice([-1, 1], values.shape)
        traits.append("outliers")
    if rng.random() < 0.2:
        values[rng.integers(len(values))] -= rng.uniform(5, 15) * sigma
        traits.append("glitch")
    if rng.random() < 0.2:
        values[rng.random(values.shape) < 0.05] = np.nan
        traits.append("missing")
    return traits


def _contradiction(rng: np.random.Generator, count: int) -> Array:
    x = np.linspace(0, 1, count)
    walk = np.cumsum(rng.standard_normal(count)) / np.sqrt(count)
    return [-x, x, walk, np.zeros(count)][rng.integers(4)]


def _oscillate(rng: np.random.Generator, values: Array, bad: NDArray[np.bool_]) -> None:
    """Swings of 5% to 15% of the gain that grow two- to fivefold to the end, about a level that may drift."""
    swing = rng.uniform(0.05, 0.15) * np.linspace(1, rng.uniform(2, 5), bad.sum())
    drift = rng.uniform(-0.3, 0.1) * np.linspace(0, 1, bad.sum())
    values[bad] += drift[:, None] + swing[:, None] * rng.standard_normal((bad.sum(), values.shape[1]))


def _diverge(rng: np.random.Generator, values: Array, bad: NDArray[np.bool_]) -> Ending:
    ending: Ending = ("nan", "collapse", "explosion")[rng.integers(3)]
    if ending == "nan":
        values[bad] = np.nan
    elif ending == "collapse":
        values[bad] -= (
            rng.uniform(0.5, 3) * np.minimum(np.arange(1, bad.sum() + 1) / rng.uniform(1, 3), 1)[:, None]
        )
    else:
        values[bad] -= 10 ** np.linspace(0, rng.uniform(3, 8), bad.sum())[:, None]
    return ending
