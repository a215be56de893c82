"""Dense blocks in 8 bits: close to float32, the same bits by strips, chosen where they are faster."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from linearsr.models import int8
from linearsr.models.int8 import Int8Block, find_ranges, use_int8_
from linearsr.models.rows import through, whole
from linearsr.models.rrdb import DenseBlock, RRDBNet, RRDBNetConfig

pytestmark = pytest.mark.skipif(not int8.supported(), reason="this torch has no 8-bit convolutions")


@pytest.fixture
def block() -> DenseBlock:
    torch.manual_seed(0)
    found = DenseBlock(32, 16)
    for conv in found.convolutions:
        nn.init.normal_(conv.bias)
    return found


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 32, 13, 17, generator=torch.Generator().manual_seed(1))


def in_int8(block: DenseBlock, x: Tensor) -> DenseBlock:
    with find_ranges(block) as ranges, torch.no_grad():
        whole(block.rows(), x)
    found = copy.deepcopy(block)
    use_int8_(found, ranges)
    assert isinstance(found.processor, Int8Block)
    return found


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_added_is_that_of_float32(block: DenseBlock, x: Tensor, dtype: torch.dtype) -> None:
    expected = whole(block.rows(), x)
    made = whole(in_int8(block.to(dtype), x.to(dtype)).rows(), x.to(dtype))
    assert made.dtype == dtype
    assert relative_error(made - x, expected - x) < 0.05
    # at the borders too, where the padding's zero is a byte of its own
    assert relative_error(made[..., :1] - x[..., :1], (expected - x)[..., :1]) < 0.05


@torch.no_grad()
def test_channels_have_ranges_of_their_own(block: DenseBlock, x: Tensor) -> None:
    """One channel a hundred times as large as the others takes nothing from their precision."""
    x = x * 0.1
    x[:, 0] *= 100
    for conv in block.convolutions:
        conv.weight[:, 0] /= 100
    with find_ranges(block) as ranges:
        expected = whole(block.rows(), x)
    ((name, found),) = ranges.items()
    assert name == ""
    assert found.shape == (32 + 4 * 16,)
    torch.testing.assert_close(found[0], 0.9 * x[:, 0].abs().max())
    # those that are nearly silent are given a sixteenth of the widest
    torch.testing.assert_close(found[1:32], (found[0] / 16).expand(31))
    made = whole(in_int8(block, x).rows(), x)
    assert relative_error(made - x, expected - x) < 0.1


@torch.no_grad()
def test_strips_give_the_bits_of_the_whole(block: DenseBlock, x: Tensor) -> None:
    block = in_int8(block, x)
    expected = whole(block.rows(), x)
    for split in ([1] * 13, [4, 4, 5], [13]):
        assert torch.equal(torch.cat(list(through(block.rows(), x.split(split, dim=2))), dim=2), expected)


def test_gradients_go_through_the_float_weights(block: DenseBlock, x: Tensor) -> None:
    quantised = in_int8(block, x)
    whole(quantised.rows(), x).sum().backward()
    assert quantised.conv1.weight.grad is not None


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (33, 2)])
def test_any_size(block: DenseBlock, height: int, width: int) -> None:
    x = torch.randn(1, 32, height, width, generator=torch.Generator().manual_seed(2))
    made = whole(in_int8(block, x).rows(), x)
    assert relative_error(made - x, whole(block.rows(), x) - x) < 0.05


@torch.no_grad()
def test_a_copy_computes_the_same(block: DenseBlock, x: Tensor) -> None:
    block = in_int8(block, x)
    assert torch.equal(whole(copy.deepcopy(block).rows(), x), whole(block.rows(), x))


@torch.no_grad()
def test_a_trunk() -> None:
    torch.manual_seed(0)
    trunk = RRDBNet(RRDBNetConfig(channels=16, growth_channels=8, num_blocks=2)).eval()
    before, lr = trunk.state_dict(), torch.rand(1, 3, 12, 9) * 2 - 1
    with find_ranges(trunk) as ranges:
        expected = trunk(lr)
    assert sorted(ranges) == [f"body.{i}.rdb{j}" for i in (0, 1) for j in (1, 2, 3)]
    left_out = ranges.pop("body.1.rdb2")
    use_int8_(trunk, ranges)
    assert trunk.body[1].rdb2.processor is None
    assert isinstance(trunk.body[0].rdb2.processor, Int8Block)
    assert 0 < relative_error(trunk(lr), expected) < 0.05
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    with pytest.raises(
        ValueError, match=r"8-bit ranges: body.1.rdb2: has 48 channels, not \(47,\): compute them"
    ):
        use_int8_(trunk, {"body.1.rdb2": left_out[1:]})


@pytest.mark.parametrize(
    ("dtype", "processor", "expected"),
    [
        (torch.float32, {"avx2"}, True),
        (torch.float32, {"avx2", "vnni", "amx_tile"}, True),
        (torch.float32, {}, False),
        (torch.bfloat16, {"avx2"}, False),
        (torch.bfloat16, {"avx2", "vnni"}, True),
        (torch.bfloat16, {"avx2", "vnni", "amx_tile"}, False),
        (torch.float16, {"avx2", "vnni"}, False),
    ],
)
def test_chosen_by_what_the_processor_has(
    dtype: torch.dtype, processor: set[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for feature in ("avx2", "vnni", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", partial(bool, feature in processor))
    assert int8.faster_than(dtype) == expected


@torch.no_grad()
def test_without_vnni_weights_have_fewer_steps(
    block: DenseBlock, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two products are added in 16 bits, a large sum would be cut off."""
    for has_vnni, steps in ((True, 127), (False, 96)):
        monkeypatch.setattr(int8, "_has_vnni", partial(bool, has_vnni))
        convolution = int8.Int8Convolution(block.conv1, torch.ones(32))
        largest = block.conv1.weight.abs().amax((1, 2, 3))
        torch.testing.assert_close(convolution._scales, largest / steps)
    made = whole(in_int8(block, x).rows(), x)
    assert relative_error(made - x, whole(block.rows(), x) - x) < 0.05
