"""Resampling against Pillow's float mode."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr.images.resize import ResizeMode, resize

MODES = get_args(ResizeMode)
side = st.integers(1, 60)
modes = st.sampled_from(MODES)


def pillow_resize(array, size, mode):
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), Image.Resampling[mode.upper()]))


@settings(max_examples=150, deadline=None)
@given(st.tuples(side, side), st.tuples(side, side), modes, st.integers(0, 1000))
@example((64, 64), (256, 256), "bicubic", 0)
@example((301, 203), (77, 50), "lanczos", 0)
@example((10, 500), (35, 51), "bicubic", 0)
def test_agrees_with_pillow(old, new, mode, seed):
    array = np.random.default_rng(seed).random(old, dtype=np.float32)
    got = resize(torch.from_numpy(array)[None, None], new, mode)
    np.testing.assert_allclose(got[0, 0].numpy(), pillow_resize(array, new, mode), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_batch_channels_and_dtype(mode):
    image = torch.rand(2, 3, 12, 10, dtype=torch.bfloat16)
    got = resize(image, (24, 7), mode)
    assert got.dtype == torch.bfloat16
    single = resize(image[1:, 2:].float(), (24, 7), mode)
    torch.testing.assert_close(got[1:, 2:], single.bfloat16())


@pytest.mark.parametrize("mode", MODES)
def test_gradients_flow(mode):
    image = torch.rand(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: resize(x, (7, 4), mode), image)


def test_the_same_size_returns_an_independent_copy():
    image = torch.rand(1, 1, 4, 4)
    got = resize(image, (4, 4))
    assert torch.equal(got, image)
    assert got.data_ptr() != image.data_ptr()


def test_bad_arguments_are_refused():
    image = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="at least 1x1"):
        resize(image, (0, 4))
    with pytest.raises(ValueError, match="mode must be one of bicubic, lanczos, not 'nearest'"):
        resize(image, (2, 2), "nearest")
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        resize(image[0], (2, 2))
