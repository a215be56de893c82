"""Each effect of a degradation does what it says, and no more."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.images.degradation_effects import Effect, Reposts, Resample, SensorNoise, Shake, Sharpen, Smear
from linearsr.images.degradation_print import Dust, Fading, Halftone, Paper

EFFECTS: list[Effect] = [
    Shake(prob=1),
    Resample(factor=(0.4, 1.5)),
    SensorNoise(photons=(30, 600)),
    Smear(prob=1),
    Sharpen(prob=1),
    Reposts(),
    Halftone(prob=1),
    Fading(),
    Paper(),
    Dust(density=(0.01, 0.02)),
]


def plain(value: float, side: int = 128) -> torch.Tensor:
    return torch.full((1, 3, side, side), value)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.sampled_from(EFFECTS), st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=80, deadline=None)
def test_values_stay_in_range_and_the_input_as_it_was(
    effect: Effect, seed: int, height: int, width: int
) -> None:
    image = torch.from_numpy(rng(1).random((1, 3, 4 * height, 4 * width), dtype=np.float32))
    before = image.clone()
    after = effect(image, (height, width), rng(seed))
    assert torch.equal(image, before)
    assert after.dtype == torch.float32
    assert torch.isfinite(after).all()
    assert 0 <= after.min() <= after.max() <= 1
    assert torch.equal(after, effect(image, (height, width), rng(seed)))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_a_shake_draws_a_point_out_to_its_length(seed: int) -> None:
    point = plain(0)
    point[..., 64, 64] = 1
    shaken = Shake(prob=1, length=(5, 5), turn=0)(point, (32, 32), rng(seed))
    assert float(shaken.sum()) == pytest.approx(3, rel=1e-4)
    where = shaken[0, 0].nonzero().float()
    extent = (where.max(dim=0).values - where.min(dim=0).values).norm()
    assert float(extent) == pytest.approx(20, abs=3.5)


def test_noise_grows_with_light_and_shrinks_with_photons() -> None:
    def deviation(value: float, photons: float) -> float:
        light = value**2.2
        effect = SensorNoise(photons=(photons, photons), read=(0, 0), chroma=(0, 0))
        noisy = effect(plain(value), (32, 32), rng()) ** 2.2
        return float((noisy - light).std())

    for value, photons in [(0.5, 1000.0), (0.8, 1000.0), (0.5, 4000.0)]:
        assert deviation(value, photons) == pytest.approx(np.sqrt(value**2.2 / photons), rel=0.06)


def test_smearing_wipes_texture_and_keeps_edges() -> None:
    texture = torch.from_numpy(0.02 * rng().standard_normal((1, 1, 64, 64), dtype=np.float32))
    image = plain(0.2, 64)
    image[..., 32:] = 0.8
    image = image + texture
    smeared = Smear(prob=1, radius=(2, 2), strength=(0.08, 0.08))(image, (64, 64), rng())
    flat = slice(4, 24)
    assert smeared[..., flat, flat].std() < 0.4 * image[..., flat, flat].std()
    step = smeared[..., 34].mean() - smeared[..., 29].mean()
    assert float(step) > 0.5


def test_sharpening_overshoots_at_an_edge_alone() -> None:
    image = plain(0.3, 32)
    image[..., 16:] = 0.7
    sharp = Sharpen(prob=1, amount=(1, 1), radius=(1, 1))(image, (32, 32), rng())
    assert sharp.max() > 0.75
    assert sharp.min() < 0.25
    assert torch.allclose(sharp[..., :8], image[..., :8], atol=1e-5)


def test_halftone_keeps_the_tone_of_the_middle() -> None:
    dots = Halftone(prob=1, strength=(1, 1))(plain(0.5), (32, 32), rng())
    assert float(dots.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(dots.std()) > 0.2


def test_fading_lifts_black_and_yellows_white() -> None:
    worn = Fading(black=(0.05, 0.1), white=(0.8, 0.9))
    black, white = (worn(plain(value), (32, 32), rng())[0, :, 0, 0] for value in (0.0, 1.0))
    assert black.min() >= 0.05
    assert white.max() <= 0.9
    assert white[0] >= white[1] >= white[2]


def test_dust_is_as_dense_as_asked_for() -> None:
    effect = Dust(density=(1e-3, 1e-3), scratch_share=0, radius=(0.25, 0.25))
    covered = [
        float((effect(plain(0.5, 256), (64, 64), rng(seed)) != 0.5).any(dim=1).float().sum())
        for seed in range(60)
    ]
    # a speck of radius one covers its own pixel and few more
    assert 1e-3 * 64 * 64 < np.mean(covered) < 1e-3 * 64 * 64 * 5
