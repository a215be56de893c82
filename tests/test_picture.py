"""A Picture: the arrays it takes, alpha, and Pillow images."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_tools import SRGB, random_picture
from linearsr.images.alpha import fill_transparent, resize_alpha
from linearsr.images.picture import Picture
from linearsr.images.reading import picture_from_pil
from linearsr.images.writing import picture_to_pil


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_to_pil_and_back(channels):
    picture, integers = random_picture(
        channels=channels, icc_profile=SRGB if channels > 2 else None, dpi=(72, 72)
    )
    image = picture_to_pil(picture)
    assert image.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
    back = picture_from_pil(image)
    assert np.array_equal(back.quantised(), integers)
    assert (back.icc_profile, back.dpi) == (picture.icc_profile, (72, 72))


def test_deep_grey_stays_deep_in_pil_and_deep_colour_becomes_8_bit():
    grey, integers = random_picture(channels=1, bits=16)
    assert np.array_equal(np.asarray(picture_to_pil(grey)), integers[..., 0])
    colour, integers = random_picture(channels=3, bits=16)
    assert np.array_equal(np.asarray(picture_to_pil(colour)), np.rint(integers / 257))


def test_picture_refuses_arrays_that_do_not_fit():
    colour = np.zeros((4, 5, 3), np.float32)
    with pytest.raises(ValueError, match="colour must be"):
        Picture(colour.astype(np.float64))
    with pytest.raises(ValueError, match="colour must be"):
        Picture(colour[..., :2])
    with pytest.raises(ValueError, match="alpha must be"):
        Picture(colour, np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="bits must be"):
        Picture(colour, bits=12)


def test_invisible_colour_is_replaced_from_its_surroundings():
    colour = np.zeros((40, 50, 3), np.float32)
    alpha = np.zeros((40, 50), np.float32)
    colour[10:20, 10:30], alpha[10:20, 10:30] = (0.9, 0.5, 0.1), 0.01
    filled = fill_transparent(colour, alpha)
    np.testing.assert_allclose(filled, np.broadcast_to(np.float32([0.9, 0.5, 0.1]), filled.shape), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000), st.floats(0, 1))
def test_filling_keeps_the_visible_and_the_range(height, width, seed, share):
    random = np.random.default_rng(seed)
    colour = random.random((height, width, 3), dtype=np.float32)
    alpha = (random.random((height, width)) < share).astype(np.float32)
    filled = fill_transparent(colour, alpha)
    assert np.array_equal(filled[alpha > 0], colour[alpha > 0])
    if alpha.any():
        low, high = colour[alpha > 0].min(0), colour[alpha > 0].max(0)
        assert (filled >= low - 1e-5).all()
        assert (filled <= high + 1e-5).all()


def test_resized_alpha_stays_in_range():
    alpha = np.zeros((6, 6), np.float32)
    alpha[2:4, 2:4] = 1
    big = resize_alpha(alpha, (24, 12))
    assert big.shape == (24, 12)
    assert (big.min(), big.max()) == (0, 1)
    assert all(a <= b + 1e-6 for a, b in pairwise(big[:12, 6]))
