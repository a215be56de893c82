"""Residual blocks in 8 bits: close to float32, the same bits by strips, and never clipped."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from linearsr.models import int8
from linearsr.models.int8 import Int8Processor, find_ranges, use_int8_
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig, ResidualBlock

pytestmark = pytest.mark.skipif(not int8.supported(), reason="this processor has no fast 8-bit convolutions")


@pytest.fixture
def block() -> ResidualBlock:
    torch.manual_seed(0)
    found = ResidualBlock(32)
    nn.init.normal_(found.conv_1.bias)
    nn.init.normal_(found.conv_2.bias)
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 32, 13, 17, generator=torch.Generator().manual_seed(1))


def in_int8(block: ResidualBlock, x: Tensor, modulation: Tensor | None = None) -> ResidualBlock:
    network = nn.Sequential(copy.deepcopy(block))
    with find_ranges(block) as ranges, torch.no_grad():
        block(x, modulation)
    use_int8_(network, {f"0{name}": 1.25 * found for name, found in ranges.items()})
    found = network[0]
    assert isinstance(found, ResidualBlock)
    assert isinstance(found.processor, Int8Processor)
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_branch_is_that_of_float32(
    block: ResidualBlock, x: Tensor, modulated: bool, dtype: torch.dtype
) -> None:
    modulation = torch.randn(2, 64) * 0.3 if modulated else None
    quantised = in_int8(block, x, modulation)
    with torch.no_grad():
        expected = block(x, modulation)
        found = quantised(x.to(dtype), None if modulation is None else modulation.to(dtype))
    assert found.dtype == dtype
    assert relative_error(found - x, expected - x) < 0.03
    # at the borders too, where the padding's zero is a byte of its own
    assert relative_error(found[..., :1] - x[..., :1], (expected - x)[..., :1]) < 0.04


def test_a_strip_with_its_halo_gives_the_bits_of_the_whole(block: ResidualBlock, x: Tensor) -> None:
    quantised = in_int8(block, x)
    with torch.no_grad():
        whole = quantised(x)
        strip = quantised(x[:, :, 3:11])
    assert torch.equal(strip[:, :, 2:-2], whole[:, :, 5:9])


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("most", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("ranges", [(2.5, 100.0), (6.0, 1.0), (2.5, 1.0), ([2.5] * 16 + [6.0] * 16, 1.0)])
def test_pixels_beyond_a_range_are_put_right(
    block: ResidualBlock,
    x: Tensor,
    ranges: tuple[Any, float],
    modulated: bool,
    most: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(int8, "_MOST_BEYOND", most)
    modulation = torch.randn(2, 64) * 0.3 if modulated else None
    with torch.no_grad():
        expected = block(x, modulation)
        found = Int8Processor(block, torch.tensor(ranges[0]), ranges[1])(block, x, modulation)
    assert relative_error(found - x, expected - x) < 0.03
    assert float((found - expected).abs().max()) < 0.1 * float((expected - x).abs().max())


@pytest.mark.parametrize("hidden", [8.0, 5.0, 3.0, 1.0])
@pytest.mark.parametrize("modulated", [False, True])
def test_a_strip_with_pixels_beyond_the_range_gives_the_bits_of_the_whole(
    block: ResidualBlock, hidden: float, modulated: bool
) -> None:
    x = torch.randn(1, 32, 23, 31, generator=torch.Generator().manual_seed(2)).bfloat16()
    # rows with many such pixels, rows with few, and rows without
    x[:, :, 4:9] *= 2
    x[:, :, 15:] /= 3
    modulation = (torch.randn(1, 64) * 0.3).bfloat16() if modulated else None
    narrow = Int8Processor(block.bfloat16(), torch.tensor(5.0), hidden)
    with torch.no_grad():
        whole = narrow(block, x, modulation)
        for top in range(0, 17, 2):
            strip = narrow(block, x[:, :, top : top + 7], modulation)
            assert torch.equal(strip[:, :, 2:-2], whole[:, :, top + 2 : top + 5])


def test_gradients_go_through_the_float_weights(block: ResidualBlock, x: Tensor) -> None:
    quantised = in_int8(block, x)
    quantised(x).sum().backward()
    assert quantised.conv_1.weight.grad is not None


def test_the_state_of_a_stem_stays_the_same() -> None:
    stem = PredictiveStem(PredictiveStemConfig(channels=16, num_blocks=2, summary_channels=8)).eval()
    before = stem.state_dict()
    with find_ranges(stem) as ranges, torch.no_grad():
        stem(torch.rand(1, 3, 8, 8) * 2 - 1)
    assert sorted(ranges) == [f"blocks.{i}.conv_{j}" for i in (0, 1) for j in (1, 2)]
    use_int8_(stem, {f"lr_stem.{name}": value for name, value in ranges.items()}, "lr_stem.")
    assert all(isinstance(block.processor, Int8Processor) for block in stem.blocks)
    assert all(torch.equal(value, before[name]) for name, value in stem.state_dict().items())


def test_blocks_of_unknown_range_are_left_alone(block: ResidualBlock) -> None:
    network = nn.Sequential(block)
    use_int8_(network, {"0.conv_1": torch.tensor(1.0)})
    assert block.processor is None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 2)])
def test_any_size(block: ResidualBlock, height: int, width: int) -> None:
    x = torch.randn(1, 32, height, width, generator=torch.Generator().manual_seed(2))
    quantised = in_int8(block, x)
    with torch.no_grad():
        assert relative_error(quantised(x) - x, block(x) - x) < 0.04


def test_a_copy_computes_the_same(block: ResidualBlock, x: Tensor) -> None:
    quantised = in_int8(block, x)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(quantised)(x), quantised(x))
