"""log-SNR of the straight path: against the definition in exact arithmetic, and as a pair of inverses."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow.snr import log_snr, time_from_log_snr

TIMES = st.floats(1e-9, 1 - 1e-9)
LOG_SNRS = st.floats(-40, 40)


def exact_log_snr(t):
    getcontext().prec = 50
    alpha, sigma = 1 - Decimal(t), Decimal(t)
    return float((alpha**2 / sigma**2).ln())


@given(TIMES)
def test_it_is_the_log_of_signal_power_over_noise_power(t):
    exact = exact_log_snr(t)
    assert log_snr(t) == pytest.approx(exact, rel=1e-12, abs=1e-14)
    tensor = torch.tensor([t], dtype=torch.float64)
    assert log_snr(tensor).item() == pytest.approx(exact, rel=1e-12, abs=1e-14)


@given(LOG_SNRS)
def test_numbers_and_tensors_go_there_and_back(lam):
    assert log_snr(time_from_log_snr(lam)) == pytest.approx(lam, rel=1e-6, abs=1e-9)
    tensor = torch.full((2, 3), lam, dtype=torch.float64)
    assert torch.allclose(log_snr(time_from_log_snr(tensor)), tensor, rtol=1e-6, atol=1e-9)
    assert time_from_log_snr(tensor)[0, 0].item() == pytest.approx(time_from_log_snr(lam), rel=1e-12)


@given(TIMES, TIMES)
def test_it_falls_with_time_and_is_odd_about_one_half(a, b):
    if b - a > 1e-12:
        assert log_snr(a) > log_snr(b)
    assert log_snr(1 - a) == pytest.approx(-log_snr(a), rel=1e-6, abs=1e-6)


def test_published_times():
    assert log_snr(0.875) == pytest.approx(-2 * math.log(7))
    assert log_snr(0.01163) == pytest.approx(8.885, abs=1e-3)
    assert log_snr(0.97131) == pytest.approx(-7.044, abs=1e-3)


def test_the_ends_are_exact_and_nothing_overflows():
    assert (log_snr(0), log_snr(0.5), log_snr(1)) == (math.inf, 0, -math.inf)
    assert log_snr(torch.tensor([0.0, 0.5, 1.0])).tolist() == [math.inf, 0, -math.inf]
    for lam, t in ((math.inf, 0), (1e6, 0), (0, 0.5), (-1e6, 1), (-math.inf, 1)):
        assert time_from_log_snr(lam) == t
        assert time_from_log_snr(torch.tensor(float(lam))).item() == t


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match="outside"):
        log_snr(t)
    assert log_snr(torch.tensor(t)).isnan()
