"""The cost of a model at a size: multiply-accumulates (MACs) and parameters of each part, time, and memory.

Matrix products and convolutions count, as `torch.utils.flop_counter` sees them; elementwise operations do
not. The networks around the transformer are run once; the transformer is counted with fake tensors, without
computing anything.
"""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from linearsr.guidance.encoders import EncoderPart
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.pipeline import LinearSRPipeline

_T = TypeVar("_T")
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
Size = tuple[int, int]
"""The (height, width) of an LR image."""


def costs(pipe: LinearSRPipeline, sizes: Sequence[Size], runs: int) -> Iterator[dict[str, Any]]:
    """Measure a model at several LR sizes, the smallest first, and yield a record for JSON for each.

    `input` and `output` are [width, height]; `tokens` is the number of tokens of the latent; `nfe_seconds` is
    the median time of one evaluation of the transformer (1 NFE), `image_seconds` that of a whole image. In a
    model without experts, `nfe_seconds` is the time of the trunk and the tokens are LR pixels.

    Args:
        runs: timed calls; one more before them warms up.

    Raises:
        ValueError: a size needs more memory than there is; raised before any measurement.
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


@dataclass(frozen=True)
class PartCost:
    """The cost of one part of a model for one image."""

    part: str
    parameters: int
    macs: int
    """MACs of one pass; the transformer makes one pass per step."""


def count_parts(pipe: LinearSRPipeline, height: int, width: int) -> list[PartCost]:
    """Count the parts of a model for an LR image of `height` x `width`, in the order in which they run."""
    parts: list[PartCost] = []

    def counted(name: str, call: Callable[[], _T]) -> _T:
        made = list[_T]()
        with torch.inference_mode():
            macs = _counted(lambda: made.append(call()))
        parts.append(PartCost(name, _parameters(getattr(pipe, name)), macs))
        return made[0]

    lr = torch.zeros(1, 3, height, width, device=pipe.device)
    tagger, guidance = pipe.tagger, pipe.guidance
    found = [] if tagger is None else counted("tagger", lambda: [tag.name for tag in tagger.tag(lr[0])])
    tokens = None
    if guidance is not None:
        told = counted("guidance", lambda: guidance.encode(lr, [found or ["photo"]]))
        tokens = None if told is None else told.embeds.shape[1]
    padded = [-(-side // pipe.multiple_of) * pipe.multiple_of for side in (height, width)]
    condition = counted("lr_stem", lambda: pipe.lr_stem(torch.zeros(1, 3, *padded, device=pipe.device)))
    rows, columns = condition.features.shape[-2:]
    if pipe.transformer is not None:
        macs = transformer_macs(pipe.transformer.config, rows, columns, tokens)
        parts.append(PartCost("transformer", _parameters(pipe.transformer), macs))
    latent = torch.zeros(1, pipe.codec.latent_channels, rows, columns, device=pipe.device)
    counted("codec", lambda: pipe.codec.decode(latent, condition))
    if pipe.trunk is not None:
        macs = pipe.trunk.macs_per_pixel * padded[0] * padded[1]
        parts.append(PartCost("trunk", _parameters(pipe.trunk), macs))
    return parts


def transformer_macs(config: TransformerConfig, height: int, width: int, tokens: int | None = None) -> int:
    """Return the MACs of one evaluation (NFE); arguments as for `evaluation_inputs`."""
    # fake tensors have shapes only; with gradients enabled, the network does not go band by band
    with torch.inference_mode(False), FakeTensorMode(), torch.enable_grad():
        network = LinearSRTransformer(config).requires_grad_(False)
        inputs = evaluation_inputs(config, height, width, tokens, torch.device("cpu"), torch.float32)
        return _counted(lambda: network(**inputs))


def evaluation_inputs(
    config: TransformerConfig,
    height: int,
    width: int,
    tokens: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Return random arguments of an evaluation; `tokens`: of guidance, or None for the null tokens."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, device=device, dtype=dtype)

    return {
        "hidden_states": noise(config.in_channels, height, width),
        "timestep": torch.full((1,), 500.0, device=device),
        "lr_features": noise(config.lr_channels, height, width) if config.lr_channels else None,
        "encoder_hidden_states": None if tokens is None else noise(tokens, config.caption_channels),
    }


def _counted(call: Callable[[], object]) -> int:
    """Return the MACs of the products and convolutions in a call."""
    # the counter does not know the fused attention kernel of the CPU, but it knows its matrix products
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def _parameters(part: object) -> int:
    if isinstance(part, EncoderPart):
        with part.encoder() as encoder:
            return _parameters(encoder)
    return sum(p.numel() for p in part.parameters()) if isinstance(part, nn.Module) else 0


def device_name(device: torch.device) -> str:
    """Return the name of the device; on a CPU, also the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


def measure(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Return the median seconds of `runs` calls, after one that warms up."""
    seconds = []
    for _ in range(runs + 1):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def with_peak(call: Callable[[], _T], device: torch.device) -> tuple[_T, int]:
    """Run `call`; return its result and the peak memory in use meanwhile, in bytes.

    On CUDA this is the peak of the device's allocator, elsewhere that of the whole process. Where the system
    cannot reset an earlier peak (outside Linux), it is the peak of the process so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return result, int(torch.cuda.max_memory_allocated(device))
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        import resource  # not available on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return call(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    result, status = call(), _STATUS.read_text(encoding="ascii")
    line = next(row for row in status.splitlines() if row.startswith("VmHWM"))
    return result, int(line.split()[1]) * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
