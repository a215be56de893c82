"""The upscale of one image file: in one piece if it fits in memory, else in strips of rows."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linearsr.jobs.names import Job
from linearsr.jobs.run import Watcher
from linearsr.runtime.files import prefixed
from linearsr.settings import DType, Fit, TagRequest

if TYPE_CHECKING:
    from linearsr.images.metadata import Keep
    from linearsr.pipeline import LinearSRPipeline

_HELD_BYTES_PER_PIXEL = 16
"""Memory for a result that is kept in memory while its strips are made: its floats and a copy of them."""


@dataclass(frozen=True)
class Upscaling:
    """The options of all images. `settings`: arguments of `pipeline.upscale`; `fit`: instead of a scale."""

    settings: Mapping[str, Any]
    max_pixels: int
    quality: int
    overwrite: bool
    fit: Fit | None = None
    memory_limit: float | None = None
    """Memory to use, in GiB; None uses what is free."""
    keep: "Keep" = "all"
    strict: bool = False
    verbose: bool = False

    def upscale(self, pipeline: "LinearSRPipeline", job: Job, watcher: Watcher) -> dict[str, Any]:
        """Do a job, and return size (width, height), model and tags. Raises ValueError: it cannot be done."""
        from linearsr.images.reading import read_image
        from linearsr.images.writing import write_image

        target, settings = job.output, dict(self.settings)
        assert target is not None
        mode = choose_mode(pipeline, job.input, settings["scale"] or pipeline.scale, self.memory_limit)
        if self.verbose:
            watcher.say(f"{job.label}: {mode.reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode.kind == "rows":
            return self._upscale_rows(pipeline, job, target, mode.strip_rows, watcher)
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
        written = replace(result, tags=()) if self.keep == "nothing" else result
        write_image(written, target, overwrite=self.overwrite, quality=self.quality)
        return {"size": list(result.size), "model": pipeline.config.name, "tags": list(result.tags)}

    def _upscale_rows(
        self,
        pipeline: "LinearSRPipeline",
        job: Job,
        target: Path,
        strip_rows: int | None,
        watcher: Watcher,
    ) -> dict[str, Any]:
        """Upscale from file to file in strips. When interrupted, say how much was done."""
        from linearsr.jobs.large import upscale_file

        doing, done = "", 0.0

        def progress(label: str, share: float) -> None:
            nonlocal doing, done
            watcher.show_share(job.input, label, share)
            if self.verbose and label != doing:
                watcher.say(f"{job.label}: {label} ({share:.0%} done)")
            doing, done = label, share

        watcher.start_image(job.input, 100)
        try:
            written = upscale_file(
                pipeline,
                job.input,
                target,
                settings=self.settings,
                fit=self.fit,
                overwrite=self.overwrite,
                quality=self.quality,
                max_pixels=self.max_pixels,
                keep=self.keep,
                strict=self.strict,
                strip_rows=strip_rows,
                progress=progress,
            )
        except KeyboardInterrupt:
            watcher.say(f"{job.label}: stopped at {done:.0%}")
            raise
        return {"size": list(written.size), "model": pipeline.config.name, "tags": list(written.tags)}


def load_pipeline(model: str | None, device: str, dtype: DType, *, option: str = "") -> "LinearSRPipeline":
    """Load a model on a device. Raises ImportError: a library is missing.

    Raises ValueError: the model or the device cannot be used; `option` precedes a message about the device.
    """
    import torch

    from linearsr.pipeline import LinearSRPipeline
    from linearsr.runtime.devices import named_device

    with prefixed(option, ValueError):
        place = named_device(device)
    torch_dtype = None if dtype == "auto" else getattr(torch, dtype)
    return LinearSRPipeline.from_pretrained(model, torch_dtype=torch_dtype, device=place)


def unknown_tags(pipeline: "LinearSRPipeline", settings: Mapping[str, Any]) -> list[str]:
    """Load what guidance needs, and return the tags that the model cannot use.

    Raises ValueError or ImportError: the model has no guidance to scale, or an encoder cannot be loaded.
    """
    if settings["guidance_scale"] not in (None, 1) and pipeline.guidance is None:
        raise ValueError("--guidance-scale: this model has no guidance: leave it out")
    tags = settings["tags"]
    unknown = pipeline.unknown_tags(tags)
    if pipeline.guidance is not None:
        from linearsr.guidance.base import prepare

        prepare(pipeline.guidance, pipeline.tagger, *TagRequest.parse(tags, pipeline.config.use_tags))
    return unknown


@dataclass(frozen=True)
class Mode:
    """How to process an image: whole, in strips with the result "held" in memory, or by "rows" between files.

    `strip_rows`: LR rows per strip, None if whole; `reason`: why, for the user.
    """

    kind: Literal["whole", "held", "rows"]
    strip_rows: int | None
    reason: str


def choose_mode(pipeline: "LinearSRPipeline", path: Path, scale: float, memory_limit: float | None) -> Mode:
    """Choose the mode for an image file; `memory_limit` is in GiB, None uses what is free.

    Raises ImportError: the result does not fit in memory, and the extra `large` for "rows" is not installed.
    """
    from linearsr.images.picture import ImageError, warn_of
    from linearsr.images.reading import read_size
    from linearsr.runtime.devices import available_memory
    from linearsr.streaming.memory import strip_bytes, strip_rows_for, strip_rows_within

    try:
        height, width = read_size(path, str(path), max_pixels=sys.maxsize)
    except ImageError:
        return Mode("whole", None, "its fault is reported when it is read")
    whole = pipeline.estimate_memory(height, width, scale=scale)
    limit = available_memory(pipeline.device) if memory_limit is None else int(memory_limit * 2**30)
    fits = pipeline.fits(height, width, scale) if memory_limit is None else limit is None or whole <= limit
    sizes = f"{width}x{height} needs about {_size(whole)} in one piece"
    if limit is not None:
        sizes += f" and may have {_size(limit)}"
    if fits:
        return Mode("whole", None, f"{sizes}: in one piece")

    from linearsr.images.rows.vips import vips

    # from file to file needs libvips; without it, the result must fit in memory
    held = height * width * scale**2 * _HELD_BYTES_PER_PIXEL
    kind: Literal["held", "rows"] = "rows"
    try:
        vips()
    except ImportError:
        if limit is not None and held > limit:
            raise
        kind = "held"
    rows = strip_rows_for(width, pipeline.device)
    if kind == "rows" and memory_limit is not None and limit is not None:
        rows = min(rows, strip_rows_within(pipeline, width, limit))
    strip = strip_bytes(pipeline, width, rows)
    in_strips = f"in strips of {rows} row{'s' * (rows > 1)}, about {_size(strip)}"
    if limit is not None and strip > limit:
        place = "is free" if memory_limit is None else "--memory-limit allows"
        warn_of(path, f"it may take more memory than {place}: {in_strips}")
    for_result = f", and {_size(held)} for the result" if kind == "held" else ""
    return Mode(kind, rows, f"{sizes}: {in_strips}{for_result}")


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
