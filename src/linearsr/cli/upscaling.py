"""What `linearsr upscale` does with each image, in this process or another."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from linearsr.cli.batch import Work
from linearsr.cli.console import BatchProgress, say, shown
from linearsr.cli.inputs import Job
from linearsr.cli.loading import DType, check_tags, load_pipeline
from linearsr.cli.ways import StripProgress, choose_way

if TYPE_CHECKING:
    from linearsr.images.metadata import Keep
    from linearsr.pipeline import LinearSRPipeline


@dataclass(frozen=True)
class Upscaling:
    """The options of the command as far as they concern an image; `settings` by the names of `pipeline.upscale`."""

    model: str | None
    dtype: DType
    settings: dict[str, Any]
    max_pixels: int | None
    memory_limit: float | None
    overwrite: bool
    quality: int
    keep: "Keep"
    strict: bool
    verbose: bool

    def load(self, device: str) -> tuple[Work, list[str]]:
        """What upscales an image on a device, and the words of `--tags` that the model cannot use.

        Ends the command if the model cannot be loaded or guided as asked.
        """
        pipeline = load_pipeline(self.model, device, self.dtype)
        unknown = check_tags(pipeline, self.settings["tags"], self.settings["guidance_scale"])
        return partial(self._upscale, pipeline), unknown

    def _upscale(self, pipeline: "LinearSRPipeline", job: Job, progress: BatchProgress) -> dict[str, Any]:
        from linearsr.images.io import DEFAULT_MAX_PIXELS, read_image, write_image
        from linearsr.streaming.files import upscale_file

        target = job.output
        assert target is not None
        max_pixels = self.max_pixels or DEFAULT_MAX_PIXELS
        way = choose_way(pipeline, job.input, self.settings["scale"], self.memory_limit)
        if self.verbose:
            say(f"{shown(job.input)}: {way.reason}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if way.kind == "rows":
            with StripProgress(job.input, progress, self.verbose) as report:
                written = upscale_file(
                    pipeline,
                    job.input,
                    target,
                    settings=self.settings,
                    overwrite=self.overwrite,
                    quality=self.quality,
                    max_pixels=max_pixels,
                    keep=self.keep,
                    strict=self.strict,
                    strip_rows=way.strip_rows,
                    progress=report,
                )
            return {"size": list(written.size), "model": pipeline.config.name, "tags": list(written.tags)}
        picture = read_image(job.input, max_pixels, keep=self.keep, strict=self.strict)
        steps = pipeline.options(num_inference_steps=self.settings["num_inference_steps"]).steps
        progress.start_image(job.input, steps or None)
        result = pipeline.upscale(
            picture,
            **self.settings,
            stream=True if way.kind == "held" else None,
            callback_on_step_end=lambda _, step, time, state: progress.finish_step(step + 1, state["steps"]),
        )
        written_tags = () if self.keep == "nothing" else result.tags
        write_image(
            replace(result, tags=written_tags), target, overwrite=self.overwrite, quality=self.quality
        )
        return {"size": list(result.size), "model": pipeline.config.name, "tags": list(result.tags)}
