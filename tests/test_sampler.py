"""The sampler: equal to the schedulers of diffusers, of the right order, exact at both ends."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow.sampler import initial_noise, sample, timesteps

SOLVERS = ("dpmsolver++", "euler")


def curved(z, t):
    """A velocity that bends in z and in t, so that no solver is exact on it."""
    return torch.tanh(z) * (1 + t) - 0.3 * t * z


def start(dtype=torch.float64):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


def run_scheduler(scheduler, z):
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        z = scheduler.step(curved(z, sigma.item()), timestep, z).prev_sample
    return z


@pytest.mark.parametrize("steps", [1, 2, 5, 14, 15, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_equal_to_dpm_solver_multistep_of_diffusers(steps, shift):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(steps)
    ours = sample(curved, start(), scheduler.sigmas.tolist(), "dpmsolver++")
    assert torch.allclose(ours, run_scheduler(scheduler, start()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [3, 20])
def test_equal_to_dpm_solver_multistep_when_it_stops_before_zero(steps):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        final_sigmas_type="sigma_min",
        lower_order_final=True,
    )
    scheduler.set_timesteps(steps)
    # The end that diffusers takes there is of another schedule; any one below the last time will do.
    scheduler.sigmas[-1] = scheduler.sigmas[-2] / 2
    ours = sample(curved, start(), scheduler.sigmas.tolist(), "dpmsolver++")
    assert torch.allclose(ours, run_scheduler(scheduler, start()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_equal_to_flow_match_euler_of_diffusers(steps, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    assert torch.allclose(scheduler.sigmas, torch.tensor(timesteps(steps, shift)), atol=1e-6)
    ours = sample(curved, start(torch.float32), scheduler.sigmas.tolist(), "euler")
    assert torch.allclose(ours, run_scheduler(scheduler, start(torch.float32)), rtol=1e-5, atol=1e-5)


def gaussian_velocity(z, t, mean=0.7, deviation=0.4):
    """E[noise - data | z] for data ~ N(mean, deviation^2): the exact field of flow matching."""
    variance = (1 - t) ** 2 * deviation**2 + t**2
    centred = z - (1 - t) * mean
    return (t - (1 - t) * deviation**2) / variance * centred - mean


def gaussian_end(z, t0, t1, mean=0.7, deviation=0.4):
    """Where the exact flow carries z from t0 to t1: it keeps the number of standard deviations from the mean."""

    def spread(t):
        return math.hypot((1 - t) * deviation, t)

    return (1 - t1) * mean + spread(t1) / spread(t0) * (z - (1 - t0) * mean)


def error(solver, steps, first=0.98, last=0.02):
    """Largest error on times that are uniform in log-SNR."""
    edges = [2 * math.log((1 - t) / t) for t in (first, last)]
    lams = [edges[0] + (edges[1] - edges[0]) * i / steps for i in range(steps + 1)]
    times = [1 / (1 + math.exp(lam / 2)) for lam in lams]
    z = start()
    return (sample(gaussian_velocity, z, times, solver) - gaussian_end(z, times[0], times[-1])).abs().max()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("dpmsolver++", 2)])
def test_convergence_order_on_an_exact_gaussian(solver, order):
    measured = [math.log2(error(solver, n) / error(solver, 2 * n)) for n in (32, 64, 128)]
    assert measured == pytest.approx([order] * 3, abs=0.25)


@pytest.mark.parametrize("solver", SOLVERS)
@given(steps=st.integers(1, 30), shift=st.floats(0.1, 10))
def test_a_straight_flow_is_exact_in_any_number_of_steps(solver, steps, shift):
    data, noise = start(), 3 * start().flip(0)
    result = sample(lambda z, t: (z - data) / t, noise, timesteps(steps, shift), solver)
    assert torch.allclose(result, data, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_end_is_the_last_estimate_itself(solver):
    seen = []

    def velocity(z, t):
        seen.append((z, t, curved(z, t)))
        return seen[-1][2]

    result = sample(velocity, start(), timesteps(4), solver)
    assert [t for _, t, _ in seen] == [1.0, 0.75, 0.5, 0.25]
    z, t, v = seen[-1]
    assert torch.equal(result, z - t * v)
    assert result.isfinite().all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_state_stays_float32_around_a_half_precision_network(solver):
    asked = set()

    def velocity(z, t):
        asked.add(z.dtype)
        return curved(z, t).bfloat16()

    assert sample(velocity, start(torch.bfloat16), timesteps(3), solver).dtype == torch.float32
    assert asked == {torch.float32}


def test_the_start_is_left_alone_and_gradients_flow():
    z = start().requires_grad_()
    before = z.detach().clone()
    sample(curved, z, timesteps(3)).sum().backward()
    assert torch.equal(z, before)
    assert z.grad is not None


@pytest.mark.parametrize(
    "times",
    [[], [1.0], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0], [1.2, 0.0], [1.0, -0.1], [math.nan, 0.0], [1.0, math.nan]],
)
def test_times_that_do_not_fall_inside_are_refused(times):
    with pytest.raises(ValueError, match="falling strictly"):
        sample(curved, start(), times)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (sample, (curved, start(), [1.0, 0.0], "heun"), "'heun' is not one of"),
        *((timesteps, (num,), "number of steps") for num in (0, -1)),
        *((timesteps, (4, shift), "shift") for shift in (0.0, -1.0, math.nan)),
        (initial_noise, ((3, 4), [1, 2]), "2 seeds for 3 images"),
    ],
)
def test_what_cannot_be_is_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@given(st.integers(1, 200), st.floats(0.05, 20))
def test_timesteps_fall_from_exactly_one_to_exactly_zero(num, shift):
    times = timesteps(num, shift)
    assert len(times) == num + 1
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert all(s > t for s, t in pairwise(times))


def test_timesteps_are_shifted_as_published():
    assert timesteps(4) == [1, 0.75, 0.5, 0.25, 0]
    assert timesteps(4, 3.0) == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_noise_of_an_image_depends_on_its_own_seed_only():
    torch.manual_seed(3)
    untouched = torch.rand(1)
    torch.manual_seed(3)
    noise = initial_noise((3, 2, 5, 4), [7, 8, 7])
    assert torch.equal(torch.rand(1), untouched)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(initial_noise((1, 2, 5, 4), 8), noise[1:2])
    assert torch.equal(initial_noise((2, 2, 5, 4), 7), noise[::2])
    expected = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(7))
    assert torch.equal(noise[0], expected)
