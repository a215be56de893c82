"""The result of a job as an answer, in the format it was made in or another."""

import warnings
from dataclasses import replace
from pathlib import Path

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from fastapi import Response
from fastapi.responses import FileResponse
from PIL import Image

from linearsr.images.io import ImageError, read_image, write_image
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem, storage_full
from linearsr.serving.schemas import MEDIA_TYPES, ResultFormat
from linearsr.serving.settings import DISK_FULL


class Results:
    """Answers with results, and makes one conversion after the other.

    Each is done by a process of its own: a large image takes gigabytes for a moment.
    """

    def __init__(self, dispatcher: Dispatcher, max_pixels: int) -> None:
        self._dispatcher, self._store, self._max_pixels = dispatcher, dispatcher.store, max_pixels
        self._turn = CapacityLimiter(1)

    def answer(self, job: Job, format: ResultFormat | None = None, stripped: bool = False) -> Response:
        """The image as it was made, or as it was converted. Raises Problem if there is none."""
        if job.live:
            raise Problem(409, "not_ready", f"the job is {job.status}", {"Retry-After": "1"})
        if job.status == "cancelled":
            raise Problem(410, "cancelled", "the job was cancelled")
        if job.error == DISK_FULL:
            raise storage_full()
        if job.status == "failed":
            raise Problem(422, "failed", job.error or "the job failed")
        path = self._store.result_path(job, format, stripped)
        if not path.exists():
            raise Problem(404, "not_found", "the result has expired")
        headers = {"X-Job-ID": job.id, "Cache-Control": "private, no-store"}
        return FileResponse(path, media_type=MEDIA_TYPES[format or job.options["format"]], headers=headers)

    async def converted(self, job: Job, format: ResultFormat | None, stripped: bool) -> Response:
        """The image in a format, converted once; with all metadata, or `stripped` of all but the colour profile.

        Raises Problem if there is no image, no room for another, or the format cannot hold it.
        """
        made = self.answer(job)
        if format in (None, job.options["format"]) and not stripped:
            return made
        self._dispatcher.require_room(job)
        target = self._store.result_path(job, format, stripped)
        tags = () if stripped else tuple(job.tags)
        task = self._store.result_path(job), target, tags, self._max_pixels, stripped
        try:
            error = await to_process.run_sync(_convert, *task, cancellable=True, limiter=self._turn)
        except BrokenWorkerProcess:
            error = "there is not enough memory to convert the result"
        finally:
            self._store.measure(job)
        if error is not None:
            raise Problem(422, "bad_option", f"format: {error}")
        return self.answer(job, format, stripped)


def _convert(
    source: Path, target: Path, tags: tuple[str, ...], max_pixels: int, stripped: bool
) -> str | None:
    """Convert one file; says why it cannot."""
    if target.exists():
        return None
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    try:
        picture = read_image(source, max_pixels=max_pixels, keep="nothing" if stripped else "all")
        write_image(replace(picture, tags=tags), target, overwrite=True)
    except ImageError as error:
        return str(error).replace(f"{target}: ", "the result ").replace(f"{source}: ", "the result ")
    return None
