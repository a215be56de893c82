"""How a picture is mixed of the drawn picture and the mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.images.mixing import MIXING_REACH, towards_mean
from linearsr.streaming.passes import mixed


def pictures(height: int, width: int, seed: int = 0) -> list[torch.Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return [torch.rand(2, 3, height, width, generator=noise) * 2 - 1 for _ in range(2)]


def window_mean(x: np.ndarray, row: int, column: int, side: int) -> float:
    top, left = max(0, row - side // 2), max(0, column - side // 2)
    return float(x[top : row + side // 2 + 1, left : column + side // 2 + 1].mean())


def test_the_formula() -> None:
    drawn, mean = pictures(13, 16)
    result = towards_mean(drawn, mean, 0.3)[0]
    one, other = (x[0].mean(0).double().numpy() for x in (drawn, mean))
    contrast = np.array(
        [[abs(other[i, j] - window_mean(other, i, j, 9)) for j in range(16)] for i in range(13)]
    )
    for i, j in ((0, 0), (6, 8), (12, 3)):
        strength = (window_mean(np.abs(other - one), i, j, 7) + 0.004) * (
            window_mean(contrast, i, j, 7) + 0.004
        )
        odds = 0.3 / 0.7 * strength**0.5 / 0.1
        expected = torch.lerp(drawn[0, :, i, j], mean[0, :, i, j], odds / (1 + odds))
        torch.testing.assert_close(result[:, i, j], expected)


@given(
    seed=st.integers(0, 99),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    side=st.sampled_from([1, 2, 5, 20]),
)
def test_every_pixel_moves_from_the_drawn_picture_to_the_mean(
    seed: int, low: float, high: float, side: int
) -> None:
    drawn, mean = pictures(side, side + 1, seed)
    near, far = (towards_mean(drawn, mean, f) for f in sorted((low, high)))
    left = [(mean - x).abs() for x in (drawn, near, far)]
    assert (left[0] + 1e-6 >= left[1]).all()
    assert (left[1] + 1e-6 >= left[2]).all()
    assert torch.equal(towards_mean(drawn, mean, 1.0), mean)


def test_edges_come_before_texture() -> None:
    """The same difference everywhere, beside an edge of the mean on the left and on a plain surface on the right."""
    mean = torch.zeros(1, 3, 40, 60)
    mean[..., :10] = 1
    drawn = mean + 0.2 * torch.rand(1, 1, 40, 60)
    share = (towards_mean(drawn, mean, 0.3) - drawn).abs().mean(1) / (mean - drawn).abs().mean(1)
    assert share[..., 8:12].mean() > 0.3
    assert share[..., 40:].mean() < 0.1


@pytest.mark.parametrize("strip", [1, 4, 17])
def test_rows_are_those_of_the_whole(strip: int) -> None:
    drawn, mean = pictures(30, 12)
    whole = towards_mean(drawn, mean, 0.4)
    read = mixed(
        lambda top, bottom: drawn[:, :, top:bottom], lambda top, bottom: mean[:, :, top:bottom], 0.4, 30
    )
    for top in range(0, 30, strip):
        assert torch.equal(read(top, min(30, top + strip)), whole[:, :, top : top + strip])


def test_nothing_beyond_its_reach_matters() -> None:
    drawn, mean = pictures(30, 30)
    before = towards_mean(drawn, mean, 0.4)
    for changed in (drawn, mean):
        changed[..., 15 + MIXING_REACH :] += 1
    after = towards_mean(drawn, mean, 0.4)
    assert torch.equal(after[..., :15], before[..., :15])
    assert not torch.equal(after[..., 15], before[..., 15])
