"""The Triton kernels against the plain versions, in Triton's interpreter on the CPU. No GPU has run them here."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from linearsr import kernels

if not kernels.installed():
    pytest.skip("Triton is not installed", allow_module_level=True)
# The interpreter is chosen when a kernel is defined
os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from linearsr.kernels.depthwise_gate import depthwise_gate
from linearsr.kernels.linear_attention import attend, fits, kv_sums
from linearsr.models.blocks import MixFFN, pointwise
from linearsr.models.linear_attention import EPS, apply_summary, kv_summary

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    scale = expected.double().abs().max()
    return bool((found.double() - expected.double()).abs().max() <= TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 16), (2, 1, 70, 32)])
def test_attention(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape).to(dtype) for _ in range(3))
    s, z = kv_sums(k, v)
    expected = kv_summary(k.double(), v.double())
    assert s.dtype == z.dtype == torch.float32
    assert close(s, expected.S, torch.float32 if dtype == torch.float32 else dtype)
    assert close(z, expected.z, torch.float32)
    found = attend(q, s, z, EPS)
    assert found.dtype == dtype
    assert close(found, apply_summary(q.double(), expected), dtype)


def test_attention_of_strided_heads_and_of_queries_without_a_positive_channel() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 50, 3 * 64)
    q, k, v = (part.view(2, 50, 2, 32).transpose(1, 2) for part in tokens.chunk(3, dim=-1))
    q[:, :, 7] = -1.0
    found = attend(q, *kv_sums(k, v), EPS)
    assert close(found, apply_summary(q, kv_summary(k, v)), torch.float32)
    assert not found[:, :, 7].any()


def test_widths_that_the_kernels_cannot_take() -> None:
    assert not fits(torch.zeros(1, 1, 4, 8))
    assert not fits(torch.zeros(1, 1, 4, 48))
    assert not fits(torch.zeros(1, 1, 4, 32, dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 8), (5, 9, 72)])
def test_depthwise_gate(height: int, width: int, channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ff = MixFFN(channels // 2, 2.0)
    x = torch.randn(2, height * width, ff.channels).to(dtype)
    conv = ff.conv_depth.to(dtype)
    with torch.no_grad():
        image = x.float().view(2, height, width, -1).permute(0, 3, 1, 2)
        value, gate = ff.conv_depth.float()(image).permute(0, 2, 3, 1).flatten(1, 2).chunk(2, dim=-1)
        conv = ff.conv_depth.to(dtype)
        assert conv.bias is not None
        found = depthwise_gate(x, conv.weight, conv.bias, height, width)
    assert found.dtype == dtype
    assert close(found, value * torch.nn.functional.silu(gate), dtype)
    assert pointwise(found, ff.conv_point.to(dtype)).shape == (2, height * width, channels // 2)


def test_not_chosen_on_the_cpu_nor_with_gradients_nor_when_turned_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnCuda:
        is_cuda = True

    tensor: Tensor = OnCuda()  # type: ignore[assignment]
    with torch.no_grad():
        assert kernels.usable(tensor)
        assert not kernels.usable(torch.zeros(1))
        monkeypatch.setenv(kernels.VARIABLE, "0")
        assert not kernels.usable(tensor)
        monkeypatch.delenv(kernels.VARIABLE)
    assert not kernels.usable(tensor)


def test_the_default_path_imports_no_kernel() -> None:
    code = "import sys, linearsr.pipeline; sys.exit('linearsr.kernels.linear_attention' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
