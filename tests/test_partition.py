"""The partition of the trajectory: the published split, and that every time has exactly one expert."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow.partition import PUBLISHED, Partition, bisect

BOUNDARIES = st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=8, unique=True).map(
    lambda values: tuple(sorted(values))
)


def inside(t, span, is_last):
    low, high = span
    return low < t <= high or (is_last and t == 0)


def test_bisection_gives_the_published_boundaries():
    t1, t2, t3 = bisect(-7.044, 8.885, 0.875)
    assert (round(t1, 3), t2, round(t3, 3)) == (0.223, 0.875, 0.939)
    assert PUBLISHED.boundaries == (0.223, 0.875, 0.939)


@given(st.floats(-12, -0.5), st.floats(0.5, 12), st.floats(0.05, 0.95), st.integers(1, 5))
def test_bisection_halves_each_half_in_log_snr(lambda_min, lambda_max, fraction, levels):
    lam = lambda_min + fraction * (lambda_max - lambda_min)
    anchor = 1 / (1 + math.exp(lam / 2))
    boundaries = bisect(lambda_min, lambda_max, anchor, levels)
    assert len(boundaries) == 2**levels - 1
    assert boundaries[len(boundaries) // 2] == anchor
    snrs = [2 * math.log((1 - t) / t) for t in boundaries]
    parts = [a - b for a, b in pairwise([lambda_max, *snrs, lambda_min])]
    half = len(parts) // 2
    assert parts[:half] == pytest.approx([(lambda_max - lam) / half] * half)
    assert parts[half:] == pytest.approx([(lam - lambda_min) / half] * half)
    assert Partition(boundaries).num_experts == 2**levels


@pytest.mark.parametrize(
    "arguments", [(-7, 8, 0.999), (-7, 8, 0.001), (8, -7, 0.5), (-7, 8, 1.0), (-7, 8, 0.5, 0), (-7, 8, 1.5)]
)
def test_impossible_bisections_are_refused(arguments):
    with pytest.raises(ValueError, match=r"outside|levels"):
        bisect(*arguments)


@given(BOUNDARIES, st.data())
def test_every_time_has_exactly_one_expert(boundaries, data):
    partition = Partition(boundaries)
    edges = [n for b in boundaries for n in (b, math.nextafter(b, 0), math.nextafter(b, 1))]
    t = data.draw(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, *edges])))
    last = partition.num_experts - 1
    holders = [i for i in range(partition.num_experts) if inside(t, partition.span(i), i == last)]
    assert holders == [partition.expert(t)]


@given(BOUNDARIES)
def test_spans_tile_the_trajectory(boundaries):
    partition = Partition(boundaries)
    spans = [partition.span(i) for i in range(partition.num_experts)]
    assert spans[0][1] == 1
    assert spans[-1][0] == 0
    assert all(noisy[0] == clean[1] for noisy, clean in pairwise(spans))
    assert len(set(partition.names)) == partition.num_experts


def test_published_experts_by_name():
    names = [PUBLISHED.names[PUBLISHED.expert(t)] for t in (0.94, 0.939, 0.875, 0.223)]
    assert names == ["structure generation", "structure refinement", "texture generation", "detail polishing"]
    assert [PUBLISHED.span(i) for i in range(4)] == [(0.939, 1), (0.875, 0.939), (0.223, 0.875), (0, 0.223)]


@pytest.mark.parametrize("boundaries", [(0.5, 0.5), (0.9, 0.1), (0.0, 0.5), (0.5, 1.0), (-0.1,), (math.nan,)])
def test_boundaries_that_do_not_rise_inside_are_refused(boundaries):
    with pytest.raises(ValueError, match="must rise strictly"):
        Partition(boundaries)


@pytest.mark.parametrize("t", [-1e-9, 1 + 1e-9, math.nan])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match="outside"):
        PUBLISHED.expert(t)


@pytest.mark.parametrize("index", [-1, 4])
def test_experts_that_do_not_exist_have_no_span(index):
    with pytest.raises(IndexError, match="does not exist"):
        PUBLISHED.span(index)
