"""The descriptor: its facts, and the call from tensor to tensor."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.integrations.descriptor import LinearSRDescriptor, ModelTiling


@pytest.fixture(scope="module")
def descriptor(tiny_model):
    return LinearSRDescriptor.from_pretrained(tiny_model, device="cpu", seed=5).to(dtype=torch.float32)


def test_facts(descriptor):
    assert (descriptor.scale, descriptor.input_channels, descriptor.output_channels) == (4, 3, 3)
    assert descriptor.size_requirements.multiple_of == descriptor.model.pipeline.multiple_of
    assert (descriptor.purpose, descriptor.tiling) == ("SR", ModelTiling.DISCOURAGED)
    assert descriptor.tags == ["tiny"]
    assert (descriptor.device, descriptor.dtype) == (torch.device("cpu"), torch.float32)
    assert list(descriptor.model.eval().parameters())


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 17), st.integers(1, 17), st.sampled_from([torch.float32, torch.float16]))
def test_any_size(descriptor, height, width, dtype):
    image = torch.rand(1, 3, height, width).to(dtype)
    result = descriptor(image)
    assert result.shape == (1, 3, 4 * height, 4 * width)
    assert result.dtype == dtype
    assert 0 <= result.min() <= result.max() <= 1


def test_same_as_the_pipeline(descriptor):
    images = torch.rand(2, 3, 7, 9)
    expected = descriptor.model.pipeline(list(images), seed=5, output_type="np").images
    np.testing.assert_array_equal(descriptor(images).permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_values_outside_are_clamped(descriptor):
    image = torch.rand(1, 3, 6, 6) * 3 - 1
    torch.testing.assert_close(descriptor(image), descriptor(image.clamp(0, 1)))


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 4, 4, 4), (1, 1, 4, 4)])
def test_wrong_shapes(descriptor, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\)"):
        descriptor(torch.rand(shape))


def test_types(descriptor):
    assert descriptor.to("cpu", torch.bfloat16).dtype == torch.bfloat16
    assert descriptor.to(dtype=torch.float32).dtype == torch.float32
