"""What an upscale does with each image: in one piece where that fits the memory, else in strips of rows."""

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linearsr.jobs.names import Job
from linearsr.jobs.run import Watcher, Work
from linearsr.runtime.files import prefixed
from linearsr.settings import DType, Fit, TagRequest

if TYPE_CHECKING:
    from linearsr.images.metadata import Keep
    from linearsr.pipeline import LinearSRPipeline

_HELD_BYTES_PER_PIXEL = 16
"""Of a result that is held while strips of it are made: its floats, and a copy of them."""


@dataclass(frozen=True)
class Upscaling:
    """The options of the command as far as they concern an image.

    `settings`: by the names of `pipeline.upscale`; `fit`: the size of the results in the place of a scale.
    """

    model: str | None
    dtype: DType
    settings: dict[str, Any]
    fit: Fit
    max_pixels: int
    memory_limit: float | None
    overwrite: bool
    quality: int
    keep: "Keep"
    strict: bool
    verbose: bool

    def load(self, device: str) -> tuple[Work, list[str]]:
        """What upscales an image on a device, and the words of `--tags` that the model cannot use.

        Raises:
            ValueError, ImportError: the model cannot be loaded, or guided as asked.
        """
        pipeline = load_pipeline(self.model, device, self.dtype, option="--device ")
        unknown = unknown_tags(pipeline, self.settings["tags"], self.settings["guidance_scale"])
        return partial(self._upscale, pipeline), unknown

    def _upscale(self, pipeline: "LinearSRPipeline", job: Job, watcher: Watcher) -> dict[str, Any]:
        from linearsr.images.reading import read_image
        from linearsr.images.writing import write_image

        target, settings = job.output, dict(self.settings)
        assert target is not None
        mode = choose_mode(pipeline, job.input, settings["scale"] or pipeline.scale, self.memory_limit)
        if self.verbose:
            watcher.say(f"{job.label}: {mode.reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode.kind == "rows":
            from linearsr.jobs.large import upscale_file

            with StripProgress(job, watcher, self.verbose) as report:
                written = upscale_file(
                    pipeline,
                    job.input,
                    target,
                    settings=settings,
                    fit=self.fit,
                    overwrite=self.overwrite,
                    quality=self.quality,
                    max_pixels=self.max_pixels,
                    keep=self.keep,
                    strict=self.strict,
                    strip_rows=mode.strip_rows,
                    progress=report,
                )
            return {"size": list(written.size), "model": pipeline.config.name, "tags": list(written.tags)}
        picture = read_image(job.input, self.max_pixels, keep=self.keep, strict=self.strict)
        if self.fit:
            settings["scale"] = self.fit.scale(picture.size)
        steps = pipeline.options(num_inference_steps=settings["num_inference_steps"]).steps
        watcher.start_image(job.input, steps or None)
        result = pipeline.upscale(
            picture,
            **settings,
            stream=True if mode.kind == "held" else None,
            callback_on_step_end=lambda _, step, time, state: watcher.finish_step(step + 1, state["steps"]),
        )
        written_tags = () if self.keep == "nothing" else result.tags
        write_image(
            replace(result, tags=written_tags), target, overwrite=self.overwrite, quality=self.quality
        )
        return {"size": list(result.size), "model": pipeline.config.name, "tags": list(result.tags)}


def load_pipeline(model: str | None, device: str, dtype: DType, *, option: str = "") -> "LinearSRPipeline":
    """The model on a device, by the names of both; a wrong device is told with `option` in front.

    Raises:
        ValueError, ImportError: it cannot be loaded, or there is no such device.
    """
    import torch

    from linearsr.pipeline import LinearSRPipeline
    from linearsr.runtime.devices import named_device

    with prefixed(option, ValueError):
        place = named_device(device)
    torch_dtype = None if dtype == "auto" else getattr(torch, dtype)
    return LinearSRPipeline.from_pretrained(model, torch_dtype=torch_dtype, device=place)


def unknown_tags(pipeline: "LinearSRPipeline", tags: str | None, guidance_scale: float | None) -> list[str]:
    """The words of a caller's tags that the model cannot use, its guidance made ready.

    Raises:
        ValueError, ImportError: they cannot guide the model.
    """
    if guidance_scale not in (None, 1) and pipeline.guidance is None:
        raise ValueError("--guidance-scale: this model has no guidance: leave it out")
    unknown = pipeline.unknown_tags(tags)
    if pipeline.guidance is not None:
        from linearsr.guidance.base import prepare

        prepare(pipeline.guidance, pipeline.tagger, *TagRequest.parse(tags, pipeline.config.use_tags))
    return unknown


@dataclass(frozen=True)
class Mode:
    """`kind`: "whole", in one piece; "held", in strips into a result in memory; "rows", from file to file in strips.

    `strip_rows`: LR rows at a time, None for as many as are good; `reason`: why, for people.
    """

    kind: Literal["whole", "held", "rows"]
    strip_rows: int | None
    reason: str


def choose_mode(pipeline: "LinearSRPipeline", path: Path, scale: float, memory_limit: float | None) -> Mode:
    """The mode for an image file; `memory_limit` in GiB, None for what is free.

    Raises:
        ImportError: the image fits the memory in "rows" alone, and the extra `large` is not installed.
    """
    from linearsr.images.picture import ImageError, warn_of
    from linearsr.images.reading import read_size
    from linearsr.runtime.devices import available_memory
    from linearsr.streaming.memory import strip_bytes, strip_rows_for, strip_rows_within

    try:
        height, width = read_size(path, str(path), max_pixels=sys.maxsize)
    except ImageError:
        return Mode("whole", None, "what is wrong with it shows when it is read")
    whole = pipeline.estimate_memory(height, width, scale=scale)
    limit = available_memory(pipeline.device) if memory_limit is None else int(memory_limit * 2**30)
    fits = pipeline.fits(height, width, scale) if memory_limit is None else limit is None or whole <= limit
    sizes = f"{width}x{height} needs about {_size(whole)} in one piece"
    if limit is not None:
        sizes += f" and may have {_size(limit)}"
    if fits:
        return Mode("whole", None, f"{sizes}: in one piece")

    rows = strip_rows_for(width, pipeline.device)
    if memory_limit is not None and limit is not None:
        rows = min(rows, strip_rows_within(pipeline, width, limit))
    strip = strip_bytes(pipeline, width, rows)
    in_strips = f"in strips of {rows} row{'s' * (rows > 1)}, about {_size(strip)}"
    sizes += f": {in_strips}"
    if limit is not None and strip > limit:
        place = "is free" if memory_limit is None else "--memory-limit allows"
        warn_of(path, f"it may take more memory than {place}: {in_strips}")
    held = height * width * scale**2 * _HELD_BYTES_PER_PIXEL
    from linearsr.images.rows.vips import vips

    try:
        vips()
    except ImportError:
        if limit is not None and held > limit:
            raise
        return Mode("held", rows, f"{sizes}, and {_size(held)} for the result")
    return Mode("rows", rows, sizes)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


class StripProgress:
    """Tells how work in strips goes on, and after Ctrl-C how far it was."""

    def __init__(self, job: Job, watcher: Watcher, verbose: bool) -> None:
        self._job, self._watcher, self._verbose = job, watcher, verbose
        self._doing, self._share = "", 0.0

    def __call__(self, doing: str, share: float) -> None:
        """What is being done, and the share of all the work that is done."""
        self._watcher.show_share(self._job.input, doing, share)
        if self._verbose and doing != self._doing:
            self._watcher.say(f"{self._job.label}: {doing} ({share:.0%} done)")
        self._doing, self._share = doing, share

    def __enter__(self) -> "StripProgress":
        self._watcher.start_image(self._job.input, 100)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._watcher.say(f"{self._job.label}: stopped at {self._share:.0%}")
