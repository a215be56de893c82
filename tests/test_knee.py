"""The knee of validation curves: where it is known, where there is none, and with what real curves do."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from knee_families import FAMILIES, family_run
from linearsr.training.curves import directions, read_curves
from linearsr.training.knee import KneeConfig, find_knee

CURVES = Path(__file__).parent / "data/curves"
STEPS = list(range(8_000, 264_001, 8_000))
"""Of the published case, with its knee at 48,000 and its onset of oscillation at 200,000."""


def rising(knee=48_000, noise=0.01, steps=STEPS, seed=0):
    """One metric that has made 97% of its gain at `knee`."""
    offsets = np.array(steps) - steps[0]
    values = 1 - 0.03 ** (offsets / (knee - steps[0]))
    return values + noise * np.random.default_rng(seed).standard_normal(len(steps))


def oscillating(onset=200_000, swing=0.3, **kwargs):
    values = rising(**kwargs)
    bad = np.array(STEPS) >= onset
    values[bad] += swing * np.resize([-1, 1], bad.sum()) * np.linspace(0.5, 2, bad.sum())
    return values


def find(*curves, higher=True, steps=STEPS, **config):
    named = {f"m{i}": list(curve) for i, curve in enumerate(curves)}
    return find_knee(steps, named, dict.fromkeys(named, higher), KneeConfig(**config))


def recorded(name, evaluations=None):
    """Curves of a small stem trained on the 16 photos of `examples/`, validated every 200 images."""
    curves = read_curves(CURVES / f"{name}.jsonl")
    values = {metric: values[:evaluations] for metric, values in curves.values.items()}
    return find_knee(curves.steps[:evaluations], values, directions(values))


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    """A small version of `research/knee_study.py`, on its own seed."""
    for improving, least in ((False, 10), (True, 12)):
        rng = np.random.default_rng([4, FAMILIES.index(family), improving])
        runs = [family_run(rng, family, improving) for _ in range(12)]
        answers = [find_knee(run.steps, run.curves, run.higher_is_better, rates=run.rates) for run in runs]
        assert sum(run.is_right(knee.knee_step) for run, knee in zip(runs, answers, strict=True)) >= least


def test_stopping_a_run_when_its_knee_is_confirmed():
    rng = np.random.default_rng(2)
    right, false = [], []
    for i in range(9):
        run = family_run(rng, FAMILIES[i % 4], improving=i % 3 == 2)
        answers = (
            find_knee(
                run.steps[:n],
                {name: curve[:n] for name, curve in run.curves.items()},
                run.higher_is_better,
                rates=run.rates,
            )
            for n in range(1, len(run.steps) + 1)
        )
        stop = next((knee for knee in answers if knee.confirmed), None)
        if run.right is None:
            false.append(stop is not None)
        else:
            right.append(stop is not None and run.is_right(stop.knee_step))
    assert sum(right) >= 0.9 * len(right)
    assert not any(false)


def test_the_three_phases():
    knee = find(oscillating(), oscillating(seed=1))
    assert knee.knee_step == pytest.approx(48_000, abs=8_000)
    assert knee.onset_step == pytest.approx(200_000, abs=16_000)
    assert knee.confirmed
    assert 0.9 < knee.confidence <= 1
    assert knee.steps == tuple(STEPS)
    expected = [
        "improving" if s <= knee.knee_step else "plateau" if s < knee.onset_step else "oscillating"
        for s in STEPS
    ]
    assert list(knee.phases) == expected
    assert knee.spans() == {
        "improving": (8_000, knee.knee_step),
        "plateau": (knee.knee_step + 8_000, knee.onset_step - 8_000),
        "oscillating": (knee.onset_step, 264_000),
    }


def test_scale_offset_and_direction_of_a_metric_do_not_matter():
    curve = oscillating()
    plain = find(curve)
    assert find(1e-3 * curve - 40).knee_step == plain.knee_step
    flipped = find(-1e6 * curve, higher=False)
    assert (flipped.knee_step, flipped.onset_step) == (plain.knee_step, plain.onset_step)
    assert flipped.confidence == pytest.approx(plain.confidence, abs=1e-6)


def test_a_run_that_still_improves_has_no_knee_yet():
    x = np.linspace(0, 1, len(STEPS))
    for curve in (x, np.sqrt(x), np.log1p(30 * x), x**2, rising(knee=500_000)):
        knee = find(curve + 0.003 * np.random.default_rng(0).standard_normal(len(x)))
        assert (knee.knee_step, knee.onset_step, knee.confirmed) == (None, None, False)
        assert knee.confidence > 0.5
        assert set(knee.phases) == {"improving"}


def test_the_plateau_must_last():
    first = next(n for n in range(1, len(STEPS)) if find(rising()[:n], steps=STEPS[:n]).confirmed)
    patient = next(
        n for n in range(1, len(STEPS)) if find(rising()[:n], steps=STEPS[:n], patience=12).confirmed
    )
    knee_index = STEPS.index(48_000)
    assert knee_index + 4 <= first <= knee_index + 10
    assert patient >= knee_index + 12


def test_a_plateau_is_confirmed_under_noise():
    """No one can tell at which evaluation 97% was made, but that the answer has made 90% to 99% is sure."""
    noise = 0.08
    knee = find(*(rising(knee=88_000, noise=noise, seed=i) for i in range(4)))
    assert knee.confirmed
    assert 56_000 <= knee.knee_step <= 128_000


def test_the_knee_of_what_still_improved_is_not_in_the_oscillation():
    """The evaluation before the onset that is found may be the first that swings."""
    steps = np.array(STEPS)
    x = np.log1p(30 * (steps - steps[0]) / (steps[-1] - steps[0]))
    curves = [x + 0.01 * np.random.default_rng(seed).standard_normal(len(x)) for seed in range(3)]
    for curve in curves:
        curve[20:] += np.resize([-1, 1], 13) * np.linspace(0.02, 1, 13)
    knee = find(*curves)
    assert knee.knee_step < knee.onset_step - 8_000
    assert knee.knee_step < STEPS[20]


def test_one_contradicting_metric_is_outvoted():
    worse = -np.linspace(0, 1, len(STEPS))
    knee = find(oscillating(), oscillating(seed=1), worse + 0.01 * rising(seed=5))
    assert knee.knee_step == pytest.approx(48_000, abs=8_000)
    steady = find(rising(), rising(seed=1), rising(knee=900_000, seed=2))
    assert steady.knee_step == pytest.approx(48_000, abs=8_000)


def test_outliers_and_gaps_change_nothing():
    curves = [oscillating(), oscillating(seed=1)]
    plain = find(*curves)
    curves[0][10] += 3
    curves[1][4] = math.nan
    curves[0][20] = math.inf
    gaps = [None if i in (2, 17) else float(value) for i, value in enumerate(curves[1])]
    knee = find(curves[0], gaps)
    assert abs(knee.knee_step - plain.knee_step) <= 8_000
    assert abs(knee.onset_step - plain.onset_step) <= 8_000


@pytest.mark.parametrize("ending", [math.nan, None, -5.0])
def test_divergence_ends_the_plateau(ending):
    values = [float(v) if s < 120_000 else ending for s, v in zip(STEPS, rising(), strict=True)]
    knee = find(values)
    assert knee.knee_step == pytest.approx(48_000, abs=8_000)
    assert knee.onset_step == 120_000
    assert knee.confirmed


def test_divergence_before_any_plateau_leaves_the_last_good_step():
    x = np.linspace(0, 1, len(STEPS)) + 0.003 * np.random.default_rng(0).standard_normal(len(STEPS))
    x[20:] = np.nan
    knee = find(x)
    assert (knee.onset_step, knee.confirmed) == (STEPS[20], True)
    assert knee.knee_step in STEPS[17:20]


def test_too_few_points_and_nothing_to_see():
    for n in range(1, 5):
        knee = find(rising()[:n], steps=STEPS[:n])
        assert (knee.knee_step, knee.confidence, knee.confirmed) == (None, 0.0, False)
    assert find_knee([], {}, {}).spans() == dict.fromkeys(("improving", "plateau", "oscillating"))
    assert find_knee(STEPS, {}, {}).phases == ("improving",) * len(STEPS)
    for flat in (np.ones(33), np.random.default_rng(0).standard_normal(33)):
        assert find(flat).knee_step is None
    nothing = find(np.full(33, np.nan))
    assert (nothing.knee_step, nothing.onset_step, nothing.confirmed) == (None, 8_000, False)


def test_a_real_run_that_reaches_a_plateau():
    """By eye: "mild" is level from about 4,000 images, "bicubic" from about 8,000, the last is at 16,000."""
    knee = recorded("stem-plateau")
    assert 4_000 <= knee.knee_step <= 9_000
    assert knee.onset_step is None
    for evaluations in (5, 10, 15):
        assert recorded("stem-plateau", evaluations).knee_step is None


def test_a_real_run_that_swings_from_the_start():
    """A learning rate 20 times too high: all gain in the first 400 images, then swings as large as the gain."""
    knee = recorded("stem-unstable")
    assert knee.knee_step <= 1_000
    assert knee.spans()["improving"] == (200, knee.knee_step)


def test_a_constant_metric_has_no_say():
    curves = [oscillating(), oscillating(seed=1)]
    assert find(*curves, *[np.full(33, 27.5)] * 4) == find(*curves)


def test_a_long_run_is_pooled():
    steps = list(range(500, 500 * 801, 500))
    knee = find(rising(knee=100_000, steps=steps), steps=steps)
    assert knee.knee_step == pytest.approx(100_000, rel=0.1)
    assert len(knee.phases) == 800


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=25),
    st.integers(1, 3),
)
def test_any_numbers_give_an_answer(values, metrics):
    steps = list(range(10, 10 * len(values) + 1, 10))
    knee = find(*[values[i:] + values[:i] for i in range(metrics)], steps=steps)
    assert 0 <= knee.confidence <= 1
    assert knee.knee_step is None or knee.knee_step in steps
    assert knee.onset_step is None or knee.onset_step in steps
    assert not knee.confirmed or knee.knee_step is not None
    if knee.knee_step is not None and knee.onset_step is not None:
        assert knee.knee_step < knee.onset_step


def test_wrong_curves_are_refused():
    for steps in ([1, 1], [2, 1]):
        with pytest.raises(ValueError, match="steps must rise: 1 follows"):
            find_knee(steps, {"psnr": [1, 2]}, {"psnr": True})
    with pytest.raises(ValueError, match="psnr: 1 values for 2 steps"):
        find_knee([1, 2], {"psnr": [1]}, {"psnr": True})
    with pytest.raises(ValueError, match="psnr: is higher or lower better"):
        find_knee([1, 2], {"psnr": [1, 2]}, {})
    for wrong in ({"patience": 0}, {"certainty": 1}, {"swing": 1}, {"unknown": 1}):
        with pytest.raises(ValidationError):
            KneeConfig(**wrong)


def test_only_the_chosen_curves_vote() -> None:
    """A curve that falls while the other improves would leave the question open."""
    rising = oscillating()
    falling = [-value for value in rising]
    curves = {"mild/mean/psnr": rising, "mild/sample/psnr": falling}
    better = dict.fromkeys(curves, True)
    alone = find_knee(STEPS, {"mild/mean/psnr": rising}, better)
    chosen = find_knee(STEPS, curves, better, KneeConfig(metrics=("*/mean/*",)))
    assert chosen == alone
    assert chosen.confirmed
