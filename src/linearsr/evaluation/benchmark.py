"""What a model costs at a size: MACs, time of one evaluation and of a whole image, memory; and how that grows.

Sizes are LR sizes in pixels. The latent of a size has its tokens; the whole image is read, upscaled and put back.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linearsr.evaluation.counting import PartCost, count_parts, evaluation_inputs, transformer_macs
from linearsr.evaluation.softmax import with_softmax_attention
from linearsr.evaluation.timing import measure, with_peak
from linearsr.models.presets import PRESETS
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.pipeline import LinearSRPipeline
from linearsr.runtime.devices import require_memory

Size = tuple[int, int]
"""Height and width of an LR image."""

Report = dict[str, Any]
"""What a model costs at one size, as JSON can hold it.

`input` and `output` are widths and heights; `tokens` those of the latent; `nfe_seconds` the median time of one
evaluation of the transformer (1 NFE), or of the trunk in a model without experts, whose tokens are LR pixels;
`image_seconds` that of a whole image, None for a preset, which has no other parts; `softmax_seconds` that of one
evaluation with quadratic attention, None where it was not asked for or would take too long, by `softmax_expected`.
"""

_COMPRESSION = {"tiny": 8, "default": 8, "600m": 32, "1600m": 32}
"""HR pixels along one side of a latent position, by preset."""
_SCALE = 4
_LEAST_VALUES_IN_BANDS = 3
"""Numbers that an evaluation on the CPU holds at least, over tokens times channels: the tokens and two norms."""
_LEAST_VALUES = 10
"""Those of a network that does not go band by band: the hidden layer of a Mix-FFN before and behind its SiLU."""
_MAX_SECONDS = 60.0
"""Quadratic attention is left out where one evaluation would take longer."""


def of_model(
    pipe: LinearSRPipeline, sizes: Sequence[Size], runs: int, softmax: bool = False
) -> Iterator[Report]:
    """A model at several LR sizes, the smallest first.

    Args:
        runs: calls that count; one before them does not.
        softmax: run its transformer with quadratic attention, too.

    Raises:
        ValueError: before all, for a size beyond the memory, or `softmax` for a model without attention.
    """
    drawing = pipe.transformer or pipe.trunk
    assert drawing is not None
    network = next(m for m in drawing.modules() if isinstance(m, LinearSRTransformer | RRDBNet))
    if softmax and isinstance(network, RRDBNet):
        raise ValueError(
            f"the model {pipe.config.name} has no attention to compare: measure a preset instead"
        )

    def grid(size: Size) -> Size:
        if isinstance(network, RRDBNet):
            return size
        padded = (-(-side // pipe.multiple_of) * pipe.multiple_of for side in size)
        rows, columns = (side * pipe.scale // pipe.codec.compression for side in padded)
        return rows, columns

    for size in sizes:
        pipe.require_memory(*size)
    for size in _by_area(sizes):
        image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
        whole = partial(measure, partial(pipe, image), pipe.device, runs)
        parts = count_parts(pipe, *size)
        yield _report(network, size, grid(size), pipe.scale, parts, runs, softmax, whole)


def of_preset(
    preset: str, sizes: Sequence[Size], device: torch.device, dtype: torch.dtype, runs: int, softmax: bool
) -> Iterator[Report]:
    """The transformer of a preset, with random weights, at LR sizes of x4 super-resolution; else as `of_model`."""
    config = PRESETS[preset]

    def grid(size: Size) -> Size:
        rows, columns = (-(-side * _SCALE // _COMPRESSION[preset]) for side in size)
        return rows, columns

    values = _LEAST_VALUES_IN_BANDS if device.type == "cpu" and not softmax else _LEAST_VALUES
    for size in sizes:
        needed = values * config.width * _tokens(config, *grid(size)) * dtype.itemsize
        require_memory(needed, device, f"an image of {size[1]}x{size[0]}")
    network = LinearSRTransformer(config).to(device, dtype).eval().fuse_projections_()
    parameters = sum(p.numel() for p in network.parameters())
    for size in _by_area(sizes):
        cost = PartCost("transformer", parameters, transformer_macs(config, *grid(size)))
        yield _report(network, size, grid(size), _SCALE, [cost], runs, softmax)


@torch.inference_mode()
def _report(
    network: LinearSRTransformer | RRDBNet,
    size: Size,
    grid: Size,
    scale: int,
    parts: Sequence[PartCost],
    runs: int,
    softmax: bool,
    whole: Callable[[], float] | None = None,
) -> Report:
    """Measure one evaluation, a whole image where `whole` does that, and quadratic attention."""
    weight = next(network.parameters())
    inputs: dict[str, Any]
    if isinstance(network, RRDBNet):
        tokens, inputs = grid[0] * grid[1], {"lr": weight.new_zeros(1, 3, *grid)}
    else:
        tokens = _tokens(network.config, *grid)
        inputs = evaluation_inputs(network.config, *grid, None, weight.device, weight.dtype)
    evaluation, peak = with_peak(
        partial(measure, partial(network, **inputs), weight.device, runs), weight.device
    )
    image = None
    if whole is not None:
        with torch.inference_mode(False):
            image, peak = with_peak(whole, weight.device)
    expected, quadratic = None, None
    if softmax and isinstance(network, LinearSRTransformer):
        expected = _expected(network.config, grid, evaluation)
        if expected <= _MAX_SECONDS:
            quadratic = measure(partial(with_softmax_attention(network), **inputs), weight.device, runs)
    return {
        "input": [size[1], size[0]],
        "output": [size[1] * scale, size[0] * scale],
        "tokens": tokens,
        "parts": [asdict(part) for part in parts],
        "nfe_seconds": evaluation,
        "image_seconds": image,
        "peak_gib": peak / 2**30,
        "softmax_seconds": quadratic,
        "softmax_expected": expected,
    }


def _by_area(sizes: Sequence[Size]) -> list[Size]:
    return sorted(sizes, key=lambda size: size[0] * size[1])


def _tokens(config: TransformerConfig, rows: int, columns: int) -> int:
    return rows * columns // config.patch_size**2


def _expected(config: TransformerConfig, grid: tuple[int, int], ours: float) -> float:
    """Seconds of quadratic attention at the pace of ours, by its multiply-accumulates: N^2 C twice more a layer."""
    macs = transformer_macs(config, *grid)
    return ours * (macs + 2 * _tokens(config, *grid) ** 2 * config.width * config.num_layers) / macs


def exponent(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    """The p of seconds = c * tokens ** p, by least squares on logarithms of at least two sizes."""
    slope, _ = np.polyfit(np.log(tokens), np.log(seconds), 1)
    return float(slope)


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


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The sizes, and how the time of one evaluation grows with the tokens: over all, and from size to size."""
    curves = {}
    for name, key in (("ours", "nfe_seconds"), ("softmax", "softmax_seconds")):
        measured = [report for report in reports if report[key]]
        if len({report["tokens"] for report in measured}) > 1:
            seconds = [report[key] for report in measured]
            curves[name] = [report["tokens"] for report in measured], seconds
    return {
        "sizes": list(reports),
        "exponents": {name: round(exponent(*curve), 3) for name, curve in curves.items()},
        "exponents_by_step": {
            name: [round(exponent(n, s), 3) for n, s in zip(pairwise(tokens), pairwise(seconds), strict=True)]
            for name, (tokens, seconds) in curves.items()
        },
    }
