"""What a model costs at a size: MACs, time of one evaluation and of a whole image, memory; and how that grows.

Sizes are LR sizes in pixels. The latent of a size has its tokens; the whole image is read, upscaled and put back.
"""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linearsr.evaluation.counting import PartCost, count_parts, evaluation_inputs, transformer_macs
from linearsr.evaluation.plotting import BLUE, GREY, RED, drawn
from linearsr.evaluation.rivals import Rival, rival_call
from linearsr.evaluation.timing import Timing, measure, with_peak
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS, TransformerConfig
from linearsr.pipeline import LinearSRPipeline
from linearsr.runtime.devices import require_memory

Size = tuple[int, int]
"""Height and width of an LR image."""

Report = dict[str, Any]
"""What a model costs at one size, as JSON can hold it.

`input` and `output` are widths and heights; `tokens` those of the latent; `nfe_seconds` the time of one evaluation of
the transformer (1 NFE), or of the trunk in a model without experts, whose tokens are LR pixels; `image_seconds` that
of a whole image, None for a preset, which has no other parts; `compare` that of one evaluation of other networks,
None where it would take too long, by `expected_seconds`.
"""

_COMPRESSION = {"tiny": 8, "default": 8, "600m": 32, "1600m": 32}
"""HR pixels along one side of a latent position, by preset."""
_COLOURS = {"ours": BLUE, "softmax": RED, "diffusers": GREY}
_SCALE = 4
_LEAST_VALUES_IN_BANDS = 3
"""Numbers that an evaluation on the CPU holds at least, over tokens times channels: the tokens and two norms."""
_LEAST_VALUES = 10
"""Those of a network that does not go band by band: the hidden layer of a Mix-FFN before and behind its SiLU."""


@dataclass(frozen=True)
class Benchmark:
    """How to measure."""

    runs: int = 5
    """Calls that count; one before them does not."""
    compare: tuple[Rival, ...] = ()
    """Networks that are run beside ours, on the same inputs."""
    compiled: bool = False
    """Evaluate the transformer through `torch.compile` with CUDA graphs."""
    max_seconds: float = 60.0
    """A rival is left out where one evaluation would take longer, by its multiply-accumulates at the pace of ours."""

    def of_model(self, pipe: LinearSRPipeline, sizes: Sequence[Size]) -> Iterator[Report]:
        """A model at several LR sizes, the smallest first.

        Raises:
            ValueError: before all, for a size beyond the memory, or a rival of a model without attention.
        """
        drawing = pipe.transformer or pipe.trunk
        assert drawing is not None
        network = next(m for m in drawing.modules() if isinstance(m, LinearSRTransformer | RRDBNet))
        if self.compare and isinstance(network, RRDBNet):
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
            if isinstance(network, LinearSRTransformer):
                table = network.scale_shift_table
                self._require_memory(network.config, table.device, table.dtype, grid(size), size)
        for size in _by_area(sizes):
            image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
            whole = partial(measure, partial(pipe, image), pipe.device, self.runs)
            yield self._report(network, size, grid(size), pipe.scale, count_parts(pipe, *size), whole)

    def of_preset(
        self, preset: str, sizes: Sequence[Size], device: torch.device, dtype: torch.dtype
    ) -> Iterator[Report]:
        """The transformer of a preset, with random weights, at LR sizes of x4 super-resolution; else as `of_model`."""
        config = PRESETS[preset]

        def grid(size: Size) -> Size:
            rows, columns = (-(-side * _SCALE // _COMPRESSION[preset]) for side in size)
            return rows, columns

        for size in sizes:
            self._require_memory(config, device, dtype, grid(size), size)
        network = LinearSRTransformer(config).to(device, dtype).eval().fuse_projections_()
        parameters = sum(p.numel() for p in network.parameters())
        for size in _by_area(sizes):
            cost = PartCost("transformer", parameters, transformer_macs(config, *grid(size)))
            yield self._report(network, size, grid(size), _SCALE, [cost])

    @torch.inference_mode()
    def _report(
        self,
        network: LinearSRTransformer | RRDBNet,
        size: Size,
        grid: Size,
        scale: int,
        parts: Sequence[PartCost],
        whole: Callable[[], Timing] | None = None,
    ) -> Report:
        """Measure one evaluation, a whole image where `whole` does that, and the rivals."""
        weight = next(network.parameters())
        inputs: dict[str, Any]
        if isinstance(network, RRDBNet):
            tokens, inputs = grid[0] * grid[1], {"lr": weight.new_zeros(1, 3, *grid)}
        else:
            tokens = _tokens(network.config, *grid)
            inputs = evaluation_inputs(network.config, *grid, None, weight.device, weight.dtype)
        evaluation, peak = with_peak(partial(self._evaluation, network, inputs), weight.device)
        image = None
        if whole is not None:
            with torch.inference_mode(False):
                image, peak = with_peak(whole, weight.device)
        height, width = size[0] * scale, size[1] * scale
        expected: dict[Rival, float] = {}
        compared: dict[Rival, Timing | None] = {}
        if isinstance(network, LinearSRTransformer):
            for rival in self.compare:
                expected[rival] = _expected(rival, network.config, grid, evaluation.median)
                call = rival_call(rival, network, inputs)
                within = expected[rival] <= self.max_seconds
                compared[rival] = measure(call, weight.device, self.runs) if within else None
        report: Report = _rounded(
            {
                "input": (size[1], size[0]),
                "output": (width, height),
                "tokens": tokens,
                "parts": [asdict(part) for part in parts],
                "nfe_seconds": asdict(evaluation),
                "image_seconds": image and asdict(image),
                "peak_gib": peak / 2**30,
                "megapixels_per_second": image and height * width / 1e6 / image.median,
                "compare": {rival: found and asdict(found) for rival, found in compared.items()},
                "expected_seconds": expected,
            }
        )
        return report

    def _require_memory(
        self,
        config: TransformerConfig,
        device: torch.device,
        dtype: torch.dtype,
        grid: tuple[int, int],
        size: Size,
    ) -> None:
        """Raises ValueError for an LR size of whose latent `grid` one evaluation cannot fit the device's memory."""
        in_bands = device.type == "cpu" and not self.compare
        values = _LEAST_VALUES_IN_BANDS if in_bands else _LEAST_VALUES
        needed = values * config.width * _tokens(config, *grid) * dtype.itemsize
        require_memory(needed, device, f"an image of {size[1]}x{size[0]}")

    def _evaluation(self, network: LinearSRTransformer | RRDBNet, inputs: dict[str, Any]) -> Timing:
        if self.compiled:
            network.compile(mode="reduce-overhead")
        # compiled in the first call, recorded as a graph in the next ones
        warmup = 4 if self.compiled else 1
        return measure(partial(network, **inputs), next(network.parameters()).device, self.runs, warmup)


def _by_area(sizes: Sequence[Size]) -> list[Size]:
    return sorted(sizes, key=lambda size: size[0] * size[1])


def _tokens(config: TransformerConfig, rows: int, columns: int) -> int:
    return rows * columns // config.patch_size**2


def _expected(rival: Rival, config: TransformerConfig, grid: tuple[int, int], ours: float) -> float:
    """Seconds of a rival at the pace of ours, by its multiply-accumulates: N^2 C twice more a layer for softmax."""
    macs = transformer_macs(config, *grid)
    more = 2 * _tokens(config, *grid) ** 2 * config.width * config.num_layers if rival == "softmax" else 0
    return ours * (macs + more) / macs


def exponent(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    """The p of seconds = c * tokens ** p, by least squares on logarithms. ValueError for fewer than two sizes."""
    if len(set(tokens)) < 2:
        raise ValueError("an exponent needs two sizes or more")
    slope, _ = np.polyfit(np.log(tokens), np.log(seconds), 1)
    return float(slope)


def local_exponents(tokens: Sequence[int], seconds: Sequence[float]) -> list[float]:
    """The exponent from each size to the next larger one; both in the order of the tokens."""
    return [exponent(n, s) for n, s in zip(pairwise(tokens), pairwise(seconds), strict=True)]


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"python": platform.python_version()}
    for package in ("linearsr", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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


def curves(reports: Sequence[Report]) -> dict[str, tuple[list[int], list[float]]]:
    """Tokens and median seconds of one evaluation, by network; sizes that were left out are left out."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for report in reports:
        for name, timing in {"ours": report["nfe_seconds"], **report["compare"]}.items():
            tokens, seconds = found.setdefault(name, ([], []))
            if timing is not None:
                tokens.append(report["tokens"])
                seconds.append(timing["median"])
    return found


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """The sizes, and how the time of one evaluation grows with the tokens."""
    grown = {name: curve for name, curve in curves(reports).items() if len(set(curve[0])) > 1}
    return {
        "sizes": list(reports),
        "exponents": {name: round(exponent(*curve), 3) for name, curve in grown.items()},
        "exponents_by_step": {
            name: [round(step, 3) for step in local_exponents(*curve)] for name, curve in grown.items()
        },
    }


def _rounded(value: Any) -> Any:
    """Floats to six significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def draw_scaling(reports: Sequence[Report], title: str, file: Path) -> None:
    """Write a PNG of seconds over output megapixels; see `drawn`."""
    from matplotlib.ticker import NullFormatter, NullLocator

    megapixels = {r["tokens"]: r["output"][0] * r["output"][1] / 1e6 for r in reports}
    with drawn(file, 6.4, 4.2) as figure:
        axis = figure.subplots()
        for name, (tokens, seconds) in curves(reports).items():
            power = f": tokens to the power {exponent(tokens, seconds):.2f}" if len(set(tokens)) > 1 else ""
            sizes = [megapixels[n] for n in tokens]
            axis.loglog(sizes, seconds, "o-", color=_COLOURS[name], label=f"{name}{power}")
        axis.set(xlabel="output megapixels", ylabel="seconds for one evaluation (1 NFE)", title=title)
        marks = list(megapixels.values())
        axis.set_xticks(marks, [f"{value:.2g}" for value in marks], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(visible=True, which="both", linewidth=0.3)
        axis.legend(fontsize=9)
