"""Results of jobs as answers: in their own format, converted to another one, or as a preview."""

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anyio import BrokenWorkerProcess, CapacityLimiter, to_process
from fastapi import Request, Response
from fastapi.responses import FileResponse
from PIL import Image
from starlette.types import Receive, Scope, Send

from linearsr.images.metadata import Keep
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_image, read_size
from linearsr.images.writing import write_image
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem, storage_full
from linearsr.serving.schemas import MEDIA_TYPES, ResultFormat
from linearsr.serving.settings import DISK_FULL

PREVIEW_SIDE = 4096
"""Longest side of a preview in pixels."""
_MOST_HELD = 2**26
"""Most pixels of a result that is converted in memory; a larger one is converted by rows."""
_ROWS_AT_ONCE = 64


class Results:
    """Answers with results. Conversions take gigabytes, so they run one by one, in a process of their own."""

    def __init__(self, dispatcher: Dispatcher, max_pixels: int) -> None:
        self._dispatcher, self._store, self._max_pixels = dispatcher, dispatcher.store, max_pixels
        self._turn = CapacityLimiter(1)

    async def awaited(self, job: Job, request: Request, seconds: float | None) -> bool:
        """Wait up to `seconds` (None: no limit) for the end of a job, and return whether it has ended.

        A client that disconnects cancels the job, unless it has an idempotency key.
        """
        end = asyncio.create_task(self._dispatcher.finished(job))
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({end, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and job.live and job.idempotency is None:
                await self._dispatcher.cancel(job)
            return not job.live
        finally:
            end.cancel()
            gone.cancel()

    def answer(self, job: Job) -> Response:
        """Return the image as the job made it. Raises Problem: there is none."""
        self._require_result(job)
        return _file(job, self._store.result_path(job), MEDIA_TYPES[job.options["format"]])

    def _require_result(self, job: Job) -> None:
        if job.live:
            raise Problem(409, "not_ready", f"the job is {job.status}", {"Retry-After": "1"})
        if job.status == "cancelled":
            raise Problem(410, "cancelled", "the job was cancelled")
        if job.error == DISK_FULL:
            raise storage_full()
        if job.status == "failed":
            raise Problem(422, "failed", job.error or "the job failed")
        if not self._store.result_path(job).exists():
            raise Problem(404, "not_found", "the result has expired")

    async def preview(self, job: Job, region: Sequence[int] = ()) -> Response:
        """Return the image, or its region (left, top, width, height), as a JPEG reduced to `PREVIEW_SIDE`.

        Raises Problem: there is no image, or the region lies outside.
        """
        self._require_result(job)
        source, target = self._store.result_path(job), self._store.preview_path(job)
        if not region:
            await self._make(job, "preview", _shrink, source, target)
            return _file(job, target, MEDIA_TYPES["jpg"])
        assert job.output is not None
        left, top, width, height = region
        most = job.output["width"], job.output["height"]
        if not (0 < width <= most[0] - left and 0 < height <= most[1] - top):
            raise Problem(422, "bad_option", f"region: the image has {most[0]}x{most[1]} pixels")
        data = await self._run(job, "preview", _cut, source, tuple(region))
        return Response(data, media_type=MEDIA_TYPES["jpg"], headers=_headers(job))

    async def converted(self, job: Job, format: ResultFormat | None, stripped: bool) -> Response:
        """Return the image in a format and, if `stripped`, without metadata except the colour profile.

        It is converted once and kept. Raises Problem: there is no image, or it cannot be converted.
        """
        made = self.answer(job)
        if format in (None, job.options["format"]) and not stripped:
            return made
        target = self._store.result_path(job, format, stripped)
        tags = () if stripped else tuple(job.tags)
        task = self._store.result_path(job), target, tags, self._max_pixels, stripped
        await self._make(job, "format", _convert, *task)
        self._require_result(job)
        return _file(job, target, MEDIA_TYPES[format or job.options["format"]])

    async def _make(self, job: Job, what: str, convert: Callable[..., None], *task: Any) -> None:
        """Convert a result to a file, unless it exists. Raises Problem: there is no room, or this fails."""
        source, target, *_ = task
        if target.exists():
            return
        self._dispatcher.require_room(job)
        try:
            await self._run(job, what, convert, *task)
        except ImageError as error:
            message = str(error).replace(f"{target}: ", "the result ").replace(f"{source}: ", "the result ")
            raise Problem(422, "bad_option", f"{what}: {message}") from None
        finally:
            self._store.measure(job)

    async def _run(self, job: Job, what: str, function: Callable[..., Any], *values: Any) -> Any:
        try:
            return await to_process.run_sync(function, *values, cancellable=True, limiter=self._turn)
        except BrokenWorkerProcess:
            message = "there is not enough memory to convert the result"
            raise Problem(422, "bad_option", f"{what}: {message}") from None
        except Exception:
            self._require_result(job)  # the job may have been removed in the meantime
            raise


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _file(job: Job, path: Path, media_type: str) -> Response:
    return _Held(path, media_type=media_type, headers=_headers(job))


class _Held(FileResponse):
    """A response that sends a file to its end, even if its job is removed in the meantime."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as files:
            try:
                file = files.enter_context(open(self.path, "rb"))
            except FileNotFoundError:
                raise Problem(404, "not_found", "the result has expired") from None
            # an open file can be read after it was removed; Windows does not remove open files
            by_number = Path(f"/dev/fd/{file.fileno()}")
            self.path = by_number if by_number.exists() else self.path
            await super().__call__(scope, receive, send)


def _headers(job: Job) -> dict[str, str]:
    return {"X-Job-ID": job.id, "Cache-Control": "private, no-store"}


def _convert(source: Path, target: Path, tags: tuple[str, ...], max_pixels: int, stripped: bool) -> None:
    Image.MAX_IMAGE_PIXELS = None
    warnings.simplefilter("ignore")
    keep: Keep = "nothing" if stripped else "all"
    height, width = read_size(source, str(source), max_pixels)
    if height * width <= _MOST_HELD:
        picture = read_image(source, max_pixels=max_pixels, keep=keep)
        write_image(replace(picture, tags=tags), target, overwrite=True)
        return
    # imported only here, because this loads torch, which takes seconds
    from linearsr.images.rows.reader import RowReader
    from linearsr.images.rows.writer import RowWriter

    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        reader = RowReader(source, Path(folder), max_pixels, keep)
        writer = RowWriter(target, (height, width), reader, Path(folder), overwrite=True)
        for top in range(0, height, _ROWS_AT_ONCE):
            writer.write(reader.read(top, min(top + _ROWS_AT_ONCE, height)))
        writer.close(tags)


def _shrink(source: Path, target: Path) -> None:
    from linearsr.images.rows.vips import save, vips

    image = vips().Image.thumbnail(str(source), PREVIEW_SIDE, height=PREVIEW_SIDE, size="down")
    made = target.with_name(f".{target.name}.part")
    save(_opaque(image), "jpegsave", made, Q=85, keep=0)
    os.replace(made, target)


def _cut(source: Path, region: tuple[int, int, int, int]) -> bytes:
    from linearsr.images.rows.vips import vips

    image = vips().Image.new_from_file(str(source), access="sequential").crop(*region)
    image = image.thumbnail_image(PREVIEW_SIDE, height=PREVIEW_SIDE, size="down")
    data: bytes = _opaque(image).jpegsave_buffer(Q=90, keep=0)
    return data


def _opaque(image: Any) -> Any:
    return image.flatten(background=255) if image.hasalpha() else image
