"""What an upscale does with each image, in this process or another."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from linearsr.jobs.names import Job
from linearsr.jobs.run import Watcher, Work
from linearsr.jobs.ways import StripProgress, choose_way
from linearsr.settings import DType, Fit

if TYPE_CHECKING:
    from linearsr.images.metadata import Keep
    from linearsr.pipeline import LinearSRPipeline


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
        pipeline = load_pipeline(self.model, device, self.dtype)
        unknown = unknown_tags(pipeline, self.settings["tags"], self.settings["guidance_scale"])
        return partial(self._upscale, pipeline), unknown

    def _upscale(self, pipeline: "LinearSRPipeline", job: Job, watcher: Watcher) -> dict[str, Any]:
        from linearsr.images.io import read_image, write_image
        from linearsr.jobs.large import upscale_file

        target, settings = job.output, dict(self.settings)
        assert target is not None
        way = choose_way(pipeline, job.input, settings["scale"] or pipeline.scale, self.memory_limit)
        if self.verbose:
            watcher.say(f"{job.label}: {way.reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if way.kind == "rows":
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
                    strip_rows=way.strip_rows,
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
            stream=True if way.kind == "held" else None,
            callback_on_step_end=lambda _, step, time, state: watcher.finish_step(step + 1, state["steps"]),
        )
        written_tags = () if self.keep == "nothing" else result.tags
        write_image(
            replace(result, tags=written_tags), target, overwrite=self.overwrite, quality=self.quality
        )
        return {"size": list(result.size), "model": pipeline.config.name, "tags": list(result.tags)}


def load_pipeline(model: str | None, device: str, dtype: DType) -> "LinearSRPipeline":
    """The model on a device, by the names of both.

    Raises:
        ValueError, ImportError: it cannot be loaded, or there is no such device.
    """
    import torch

    from linearsr.pipeline import LinearSRPipeline
    from linearsr.runtime.devices import named_device

    try:
        place = named_device(device)
    except ValueError as error:
        raise ValueError(f"--device {error}") from error
    torch_dtype = None if dtype == "auto" else getattr(torch, dtype)
    return LinearSRPipeline.from_pretrained(model, torch_dtype=torch_dtype, device=place)


def unknown_tags(pipeline: "LinearSRPipeline", tags: str | None, guidance_scale: float | None) -> list[str]:
    """The words of a caller's tags that the model cannot use, its guidance made ready.

    Raises:
        ValueError, ImportError: they cannot guide the model.
    """
    from linearsr.guidance.guide import prepare
    from linearsr.guidance.request import TagRequest

    if guidance_scale not in (None, 1) and pipeline.guidance is None:
        raise ValueError("--guidance-scale: this model has no guidance: leave it out")
    unknown = pipeline.unknown_tags(tags)
    prepare(pipeline.guidance, pipeline.tagger, TagRequest.parse(tags, pipeline.config.use_tags))
    return unknown
