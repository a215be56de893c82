"""Pictures a few pixels wide: the same bytes at each run, and none of them from memory that nobody wrote."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from linearsr import LinearSRPipeline
from linearsr.models.rows import StridedConv2d


def leave_nan_in_freed_memory() -> None:
    for channels in (8, 32, 64):
        for side in (8, 16, 64):
            torch.full((1, channels, side, side), float("nan"), dtype=torch.bfloat16)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_convolutions(dtype: torch.dtype, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = StridedConv2d(6, 32, 3, stride=2, padding=1).to(dtype, memory_format=layout)
    for height in range(1, 10):
        for width in range(1, 10):
            x = torch.randn(1, 6, height, width).to(dtype, memory_format=layout)
            leave_nan_in_freed_memory()
            with torch.inference_mode():
                found = conv(x).float()
                expected = F.conv2d(x.float(), conv.weight.float(), conv.bias.float(), 2, 1)
            torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("fidelity", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_model(dtype: torch.dtype, fidelity: float) -> None:
    sweep(LinearSRPipeline.from_pretrained(torch_dtype=dtype, device="cpu"), fidelity=fidelity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_experts(tiny_model: Path, dtype: torch.dtype) -> None:
    sweep(
        LinearSRPipeline.from_pretrained(tiny_model, torch_dtype=dtype, device="cpu"), num_inference_steps=1
    )


def sweep(pipe: LinearSRPipeline, **settings: float) -> None:
    """Widths and heights from 1 to 9, each twice: finite, of the mean of the input, and the same bytes."""
    rng = np.random.default_rng(0)
    for size in [
        (side, other) for side in range(1, 10) for other in ({1, 2, 9} if side > 2 else range(1, 10))
    ]:
        photo = rng.random((*size, 3), dtype=np.float32)
        runs = []
        for _ in range(2):
            leave_nan_in_freed_memory()
            runs.append(pipe(photo, **settings, output_type="np").images[0])
        assert np.isfinite(runs[0]).all(), size
        assert abs(runs[0].mean() - photo.mean()) < 0.1, size
        np.testing.assert_array_equal(*runs)
