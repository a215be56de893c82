"""The law of training times."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.training.times import TimeLaw

LAWS = st.builds(
    TimeLaw,
    law=st.sampled_from(["uniform", "logit_normal"]),
    mean=st.floats(-1, 1),
    std=st.floats(0.5, 2),
    shift=st.floats(0.5, 6),
)


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


def test_a_span_is_the_law_given_the_span() -> None:
    law = TimeLaw(law="logit_normal")
    generator = torch.Generator().manual_seed(0)
    whole = law.draw(torch.rand(200_000, generator=generator))
    inside = whole[(whole > 0.223) & (whole <= 0.875)]
    part = law.draw(torch.rand(50_000, generator=generator), 0.223, 0.875)
    for quantile in (0.1, 0.5, 0.9):
        assert float(part.quantile(quantile)) == pytest.approx(float(inside.quantile(quantile)), abs=0.01)
