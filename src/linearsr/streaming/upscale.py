"""A picture of any size through LinearSR in the memory of a strip, with exactly the attention of the whole picture.

The way is that of `pipeline.py`, in passes from top to bottom: stem, noise, for each step the network layer by layer,
codec.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr._version import __version__
from linearsr.flow.sampler import Step, plan
from linearsr.images.resize import scaled_size
from linearsr.model import LinearSRModel
from linearsr.settings import ColourFix, Options
from linearsr.streaming.flow import StreamedFlow
from linearsr.streaming.memory import buffer_bytes, fits_in_memory, strip_rows_for
from linearsr.streaming.network import ReadRows
from linearsr.streaming.pixels import FinishedRows, StreamedCodec
from linearsr.streaming.source import LRRows, RowReader, RowWriter, strips
from linearsr.streaming.stem import StreamedStem
from linearsr.streaming.trunk import StreamedTrunk
from linearsr.streaming.work import Progress, Report, Work

_OUTPUT_STRIPS = 2
"""Strips of the network in one strip of pixels: the neighbours that resampling needs weigh less."""


def stream_upscale(
    model: LinearSRModel,
    reader: RowReader,
    writer: RowWriter,
    *,
    scale: float | None = None,
    num_inference_steps: int | None = None,
    fidelity: float | None = None,
    tags: str | Sequence[str] | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    color_fix: ColourFix | None = None,
    work_folder: Path | None = None,
    identity: str = "",
    strip_rows: int | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Upscale rows into rows; settings as for `LinearSRPipeline.upscale`, whose result it gives to float rounding.

    Args:
        reader: the LR picture; all of it is read from top to bottom a few times.
        writer: gets the result from top to bottom, once; a run that goes on writes all of it again.
        work_folder: for what waits between passes. A run that was stopped, by whatever it was, goes on from there when
            it is called again with the same arguments; it is emptied at the end. None: in memory if there is room,
            else in a temporary folder.
        identity: what the rows come from; a folder with work on another picture is refused.
        strip_rows: LR rows to work on at a time; None: by the width.
        progress: called after every strip.

    Returns:
        The tags that guided the picture.

    Raises:
        ValueError: a setting out of its range, a folder with other work in it, or too little room on the disk.
    """
    options = model.options(
        scale=scale,
        num_inference_steps=num_inference_steps,
        fidelity=fidelity,
        color_fix=color_fix,
        tags=tags,
        guidance_scale=guidance_scale,
    )
    return stream(model, reader, writer, options, seed, work_folder, identity, strip_rows, progress)


@torch.inference_mode()
def stream(
    model: LinearSRModel,
    reader: RowReader,
    writer: RowWriter,
    options: Options,
    seed: int,
    work_folder: Path | None = None,
    identity: str = "",
    strip_rows: int | None = None,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """`stream_upscale` for settings that are complete."""
    lr = LRRows(reader, model.multiple_of, model.device)
    options = model.settled(options, lr.unpadded, (reader.height, reader.width))
    lr_per_latent = model.codec.compression // model.scale
    grid = lr.height // lr_per_latent, lr.width // lr_per_latent
    unit = int(model.transformer.config.patch_size)
    wanted = (strip_rows or strip_rows_for(lr.width, model.device)) // lr_per_latent
    strip = max(unit, wanted // unit * unit)

    tokens, tags = model.guide(lambda: lr.unpadded(0, reader.height), options)
    steps = _steps(model, options)
    needed = buffer_bytes(model, lr.height, lr.width, len(steps))
    with ExitStack() as stack:
        folder = _folder(work_folder, needed, stack)
        run = _description(model, reader, options, seed, identity)
        costs = _Costs(model, lr.height * lr.width, grid[0] * grid[1])
        work = Work(folder, run, progress)
        stack.callback(work.close)
        stem = StreamedStem(model.lr_stem, lr, work, lr_per_latent, strip * lr_per_latent)
        flow = StreamedFlow(
            model.transformer,
            stem.features,
            work,
            (model.codec.latent_channels, *grid),
            strip,
            steps,
            tokens,
            options.guidance_scale,
        )

        def latent(top: int, bottom: int) -> Tensor:
            walked = flow.latent(top, bottom)
            if options.fidelity == 0 or not steps:
                return walked
            from_stem = model.config.mean == "stem"
            mean = torch.zeros_like(walked) if from_stem else flow.estimate(0, top, bottom)
            return torch.lerp(walked, mean, options.fidelity)

        codec = StreamedCodec(model.codec, latent, stem.condition, work, grid, strip)
        decoded: ReadRows = codec.read
        trunk = None
        if model.trunk is not None and options.steps == 0 and options.fidelity < 1:
            trunk = StreamedTrunk(model.trunk, lr, work, strip * lr_per_latent)
            decoded = partial(_between, trunk.read, codec.read, options.fidelity)
        size = scaled_size(reader.height, reader.width, options.scale)
        finished = FinishedRows(decoded, lr, size, model.scale, options)
        predicted = trunk is None or options.fidelity > 0
        work.expect(
            (trunk.cost if trunk else 0)
            + (costs.stem if predicted else 0)
            + flow.evaluations * costs.evaluation
            + codec.cost
            + costs.pixels
        )

        if trunk is not None:
            work.do("trunk", "trunk", trunk.cost, trunk.run)
        if predicted:
            _predict(stem, work, costs.stem)
        flow.run(seed, costs.evaluation, partial(_call_back, model, options))
        codec.run()
        hr_strip = _OUTPUT_STRIPS * strip * model.codec.compression
        if finished.needs_statistics:
            work.do("colours", "colours", 0, lambda _, report: finished.survey(hr_strip, report))

        def write(total: Tensor | None, report: Report) -> None:
            if total is not None:
                finished.use_statistics(total)
            rows = max(1, hr_strip * size[0] // (reader.height * model.scale))
            for top, bottom in strips(size[0], rows):
                writer.write(finished.read(top, bottom)[0].permute(1, 2, 0).cpu().numpy())
                report(bottom / size[0])

        work.end("writing", costs.pixels, write)
    return tags


def _steps(model: LinearSRModel, options: Options) -> list[Step]:
    times = model.times(options)
    return plan(times, model.config.solver) if len(times) > 1 else []


def _predict(stem: StreamedStem, work: Work, cost: float) -> None:
    work.do("survey", "stem", 0, stem.survey)
    work.do("stem", "stem", cost, stem.run)


def _between(drawn: ReadRows, mean: ReadRows, fidelity: float, top: int, bottom: int) -> Tensor:
    """Rows on the line from the trunk's picture to the mean."""
    rows = drawn(top, bottom)
    return rows if fidelity == 0 else torch.lerp(rows, mean(top, bottom), fidelity)


def _call_back(model: LinearSRModel, options: Options, step: int, time: float) -> None:
    if options.callback is not None:
        options.callback(model, step, time, {"steps": len(_steps(model, options))})


class _Costs:
    """Multiply-accumulates, about: what progress is measured by."""

    def __init__(self, model: LinearSRModel, lr_pixels: int, latent_positions: int) -> None:
        self.stem = _parameters(model.lr_stem) * lr_pixels
        with model.transformer.at(1000.0) as network:
            patch = int(model.transformer.config.patch_size)
            self.evaluation = _parameters(network) * latent_positions // patch**2
        self.pixels = 4000 * lr_pixels * model.scale**2


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _folder(asked: Path | None, needed: int, stack: ExitStack) -> Path | None:
    """Where buffers of so many bytes go; None: in memory."""
    if asked is None:
        if fits_in_memory(needed):
            return None
        asked = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linearsr-")))
    asked.mkdir(parents=True, exist_ok=True)
    already = sum(_bytes_on_disk(path) for path in asked.iterdir() if path.is_file())
    free = shutil.disk_usage(asked).free + already
    if free < needed:
        raise ValueError(
            f"{asked}: a picture of this size needs about {needed / 1e9:.0f} GB of disk for its work, and "
            f"{free / 1e9:.0f} GB are free: make room, or name a folder on another disk"
        )
    return asked


def _bytes_on_disk(path: Path) -> int:
    """Fewer than its size for a file with holes, where the system tells."""
    found = path.stat()
    return min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)


def _description(
    model: LinearSRModel, reader: RowReader, options: Options, seed: int, identity: str
) -> dict[str, Any]:
    """All that a result depends on."""
    return {
        "picture": [identity, reader.height, reader.width],
        "model": identity_of(model),
        "scale": options.scale,
        "steps": options.steps,
        "fidelity": [options.fidelity, options.drawing],
        "color fix": options.color_fix,
        "tags": [list(options.tags.words), options.tags.add],
        "guidance scale": options.guidance_scale,
        "seed": seed,
        "version of linearsr": __version__,
    }


def identity_of(model: LinearSRModel) -> list[str]:
    """Tells models apart by their settings, what they compute in, and a few of each parameter's values."""
    digest = hashlib.sha256(repr(model.config).encode())
    for part in filter(None, (model.lr_stem, model.transformer, model.trunk)):
        for parameter in part.parameters():
            digest.update(str(tuple(parameter.shape)).encode())
            digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return [model.config.name, model.arithmetic, digest.hexdigest()[:16]]
