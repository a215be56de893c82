import pytest
import torch

from linearsr.models.rows import joined


@pytest.mark.parametrize("batch", [1, 3])
def test_images_are_joined_as_pixels(batch):
    first, second = torch.randn(batch, 5, 4, 6), torch.randn(batch, 4, 6, 7).permute(0, 3, 1, 2)
    found = joined(first, second)
    assert torch.equal(found, torch.cat([first, second], dim=1))
    assert found.stride() == (4 * 6 * 12, 1, 6 * 12, 12)


def test_tokens_alone_in_their_batch_are_joined_as_pixels_too():
    # of this layout, `torch.cat` on channels makes one of planes
    tokens = torch.randn(24, 8).reshape(1, 4, 6, 1, 1, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 4, 6)
    assert joined(tokens, tokens).stride() == (4 * 6 * 16, 1, 6 * 16, 16)
    assert joined(tokens).is_contiguous(memory_format=torch.channels_last)
