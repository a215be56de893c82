"""The straight path: what is added and predicted on it, its exact log-SNR, and the law of training times."""

import math
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow.path import add_noise, log_snr, time_from_log_snr, to_sample, to_velocity
from linearsr.training.times import TimeLaw

TIMES = st.floats(1e-9, 1 - 1e-9)
LOG_SNRS = st.floats(-40, 40)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
LAWS = st.builds(
    TimeLaw,
    law=st.sampled_from(["uniform", "logit_normal"]),
    mean=st.floats(-1, 1),
    std=st.floats(0.5, 2),
    shift=st.floats(0.5, 6),
)


def draw(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


@given(SHAPES, st.integers(0, 99))
def test_times_of_samples_are_their_own(shape, seed):
    # One side of the tensors may be as long as the batch: only the first axis may be meant.
    data, noise = draw((3, *shape), seed)
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    z = add_noise(data, noise, t)
    assert torch.equal(z[0], data[0])
    assert torch.allclose(z[1], 0.7 * data[1] + 0.3 * noise[1])
    assert torch.equal(z[2], noise[2])
    for i, time in enumerate(t.tolist()):
        assert torch.allclose(z[i], add_noise(data, noise, time)[i])
        assert torch.allclose(z[i], add_noise(data, noise, t[i])[i])


@given(st.floats(0.01, 1), st.booleans())
def test_predictions_stand_for_the_same_point(t, per_sample):
    data, noise = draw((2, 3, 4))
    time = torch.full((2,), t, dtype=torch.float64) if per_sample else t
    z, v = add_noise(data, noise, time), noise - data
    for prediction, kind in ((v, "flow_prediction"), (data, "sample")):
        assert torch.allclose(to_velocity(prediction, z, time, kind), v, atol=1e-9)
        assert torch.allclose(to_sample(prediction, z, time, kind), data, atol=1e-9)


def test_the_end_of_the_path():
    data, noise = draw((2, 3))
    assert torch.equal(to_sample(noise, data, 0.0, "flow_prediction"), data)
    with pytest.raises(ValueError, match="above 0"):
        to_velocity(data, data, 0.0, "sample")


def test_what_cannot_be_meant_is_refused():
    data, noise = draw((2, 3))
    with pytest.raises(ValueError, match="one per sample"):
        add_noise(data, noise, torch.tensor([0.1, 0.2, 0.3]))
    for convert in (to_velocity, to_sample):
        with pytest.raises(ValueError, match="'epsilon' is not one of"):
            convert(data, data, 0.5, "epsilon")


def exact_log_snr(t):
    getcontext().prec = 50
    alpha, sigma = 1 - Decimal(t), Decimal(t)
    return float((alpha**2 / sigma**2).ln())


@given(TIMES)
def test_log_snr_is_the_log_of_signal_power_over_noise_power(t):
    assert log_snr(t) == pytest.approx(exact_log_snr(t), rel=1e-12, abs=1e-14)


@given(LOG_SNRS)
def test_log_snr_goes_there_and_back(lam):
    assert log_snr(time_from_log_snr(lam)) == pytest.approx(lam, rel=1e-6, abs=1e-9)


def test_the_ends_of_log_snr_are_exact_and_nothing_overflows():
    assert (log_snr(0), log_snr(0.5), log_snr(1)) == (math.inf, 0, -math.inf)
    for lam, t in ((math.inf, 0), (1e6, 0), (0, 0.5), (-1e6, 1), (-math.inf, 1)):
        assert time_from_log_snr(lam) == t


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_log_snr_of_times_outside_is_refused(t):
    with pytest.raises(ValueError, match="outside"):
        log_snr(t)


@given(LAWS, st.floats(0.01, 0.5), st.floats(0.02, 0.49))
def test_times_lie_in_their_span(law: TimeLaw, low: float, width: float) -> None:
    uniform = torch.linspace(0, 1, 1001)[:-1]
    times = law.draw(uniform, low, low + width)
    assert low - 1e-6 <= times.min()
    assert times.max() <= low + width + 1e-6
    assert (times.diff() <= 0).all()


def test_a_draw_of_zero_is_pure_noise_and_never_time_zero() -> None:
    for law in (TimeLaw(), TimeLaw(law="logit_normal", shift=3.0)):
        times = law.draw(torch.tensor([0.0, 1 - 2**-24]))
        assert times[0] == 1
        assert times[1] > 0


def test_sana_law() -> None:
    """Logit-normal with shift 3: the median is 3 * .5 / (3 * .5 + .5) = 0.75."""
    law = TimeLaw(law="logit_normal", shift=3.0)
    generator = torch.Generator().manual_seed(0)
    times = law.draw(torch.rand(20_000, generator=generator))
    normal = torch.randn(20_000, generator=generator).sigmoid()
    independent = 3 * normal / (1 + 2 * normal)
    assert float(times.median()) == pytest.approx(0.75, abs=0.01)
    assert float(times.std()) == pytest.approx(float(independent.std()), abs=0.01)
    for quantile in (0.05, 0.25, 0.9):
        assert float(times.quantile(quantile)) == pytest.approx(
            float(independent.quantile(quantile)), abs=0.02
        )
