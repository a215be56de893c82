"""What a model costs at a size: MACs by part, time of one evaluation and of a whole image, and memory."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linearsr.evaluation.counting import count_parts, evaluation_inputs
from linearsr.evaluation.timing import measure, with_peak
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline

Size = tuple[int, int]
"""Height and width of an LR image."""


def costs(pipe: LinearSRPipeline, sizes: Sequence[Size], runs: int) -> Iterator[dict[str, Any]]:
    """Of a model at several LR sizes, the smallest first, as JSON can hold them.

    `input` and `output` are widths and heights; `tokens` those of the latent; `nfe_seconds` the median time of one
    evaluation of the transformer (1 NFE), or of the trunk in a model without experts, whose tokens are LR pixels;
    `image_seconds` that of a whole image.

    Args:
        runs: calls that count; one before them does not.

    Raises:
        ValueError: before all, for a size beyond the memory.
    """
    drawing = pipe.transformer or pipe.trunk
    assert drawing is not None
    network = next(m for m in drawing.modules() if isinstance(m, LinearSRTransformer | RRDBNet))
    weight = next(network.parameters())
    for size in sizes:
        pipe.require_memory(*size)
    for height, width in sorted(sizes, key=prod):
        inputs: dict[str, Any]
        if isinstance(network, RRDBNet):
            tokens, inputs = height * width, {"lr": weight.new_zeros(1, 3, height, width)}
        else:
            padded = (-(-side // pipe.multiple_of) * pipe.multiple_of for side in (height, width))
            rows, columns = (side * pipe.scale // pipe.codec.compression for side in padded)
            tokens = rows * columns // network.config.patch_size**2
            inputs = evaluation_inputs(network.config, rows, columns, None, weight.device, weight.dtype)
        with torch.inference_mode():
            evaluation = measure(partial(network, **inputs), weight.device, runs)
        image = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
        whole, peak = with_peak(partial(measure, partial(pipe, image), pipe.device, runs), pipe.device)
        yield {
            "input": [width, height],
            "output": [width * pipe.scale, height * pipe.scale],
            "tokens": tokens,
            "parts": [asdict(part) for part in count_parts(pipe, height, width)],
            "nfe_seconds": evaluation,
            "image_seconds": whole,
            "peak_gib": peak / 2**30,
        }


def device_name(device: torch.device) -> str:
    """How the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
