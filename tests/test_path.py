"""The straight path: what is added, what is predicted, and the ways between them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow.path import add_noise, to_sample, to_velocity

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


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


@given(st.floats(0.01, 1))
def test_velocity_is_the_derivative_of_the_path(t):
    data, noise = draw((2, 3, 4))
    step = 1e-4
    slope = (add_noise(data, noise, t) - add_noise(data, noise, t - step)) / step
    assert torch.allclose(noise - data, slope, atol=1e-9)


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
