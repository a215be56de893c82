"""The dispatcher of jobs: a bounded queue, a worker process for each device, and those who watch jobs."""

import asyncio
import contextlib
import logging
import time
from asyncio import to_thread
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, BinaryIO

from prometheus_client import Counter, Histogram
from sqlalchemy.exc import IntegrityError

from linearsr.serving.completion import Completion
from linearsr.serving.job_queue import JobQueue
from linearsr.serving.jobs import LIVE, Job, JobStore, now
from linearsr.serving.problems import Problem
from linearsr.serving.schemas import JobView, ModelCard, Status
from linearsr.serving.settings import ServeSettings
from linearsr.serving.supervision import UnusableModel, WorkerDied, WorkerHandle
from linearsr.serving.worker import Message

_log = logging.getLogger(__name__)
_MAX_ATTEMPTS = 3
_CANCEL_GRACE = 2.0
_FIRST_PAUSE, _MAX_PAUSE = 0.5, 30.0
_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 3600)


class Dispatcher:
    """The part that accepts jobs, gives them to workers in order, and reports on them, in one event loop."""

    def __init__(self, settings: ServeSettings, store: JobStore) -> None:
        self._settings = settings
        self.store, self.completion = store, Completion(settings, store)
        self.workers = [WorkerHandle(settings.model, d, settings.dtype) for d in settings.devices]
        self.running: dict[str, tuple[Job, WorkerHandle]] = {}
        self.queue = JobQueue(settings)
        own: dict[str, Any] = {"namespace": "linearsr", "registry": None}
        self.ended = Counter("jobs", "Jobs that have ended.", ("kind", "status"), **own)
        self.seconds = Histogram(
            "job_seconds", "Seconds that a job took in a worker.", buckets=_BUCKETS, **own
        )
        self.closing = False
        """Whether the server is stopping."""
        self.card: ModelCard
        """Description of the model, set by `start`."""
        self._adding = asyncio.Lock()
        self._refused = 0
        self._changes: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # start and stop of the server

    async def start(self) -> None:
        """Load the model and resume unfinished jobs. Raises UnusableModel: the model cannot be loaded."""
        cards = await asyncio.gather(*(worker.start() for worker in self.workers))
        devices = [device for card in cards for device in card["devices"]]
        most = min(cards[0]["max_steps"], self._settings.max_steps)
        self.card = ModelCard(**{**cards[0], "devices": devices, "max_steps": most})
        await to_thread(self.store.clean)
        for job in await to_thread(self.store.find, Job.status.in_(LIVE)):
            job.status, job.step, job.share = "queued", 0, 0.0
            self.store.reserve(job)
            await self.queue.put(job)
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self.workers]
        await self.completion.start()

    def release(self) -> None:
        """Wake all who wait for jobs, because the server is stopping."""
        self.closing = True
        for change in self._changes.values():
            change.set()

    async def stop(self) -> None:
        """Stop the workers; their unfinished jobs are resumed after a restart."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self.workers))
        await self.completion.stop()

    @property
    def ready(self) -> bool:
        """Whether any worker has its model loaded."""
        return any(worker.ready for worker in self.workers)

    @property
    def restarts(self) -> int:
        """How many worker processes had to be replaced."""
        return sum(max(0, worker.starts - 1) for worker in self.workers)

    # for callers

    def require_room(self, job: Job | None = None) -> None:
        """Check the room for the result of `job`, or without a job for one as large as was refused last.

        Raises Problem: there is no room.
        """
        if job is not None:
            self._refused = job.result_bytes
        self.store.require_room(self._refused)
        self._refused = 0

    def reserve(self) -> object:
        """Reserve a place for an upload. Raises Problem, with the time to come back: there is no room."""
        self.store.require_room()
        return self.queue.reserve()

    async def accept(self, job: Job, image: BinaryIO, place: object) -> Job:
        """Accept a job with its image at a place from `reserve`, and close the image.

        Returns the job, or the existing one of the same request sent before; from then on it cannot be lost.
        Raises Problem: there is no room for its result, or its idempotency key belongs to another request.
        """
        try:
            if job.idempotency is not None:
                job.fingerprint = await to_thread(_fingerprint, job, image)
            async with self._adding:
                self.require_room(job)
                await to_thread(self.store.add, job, image)
                self.store.reserve(job)
                await to_thread(image.close)
                await self.queue.put(job)
                return job
        except IntegrityError:
            return await self._same(job)
        finally:
            self.queue.release(place)

    async def _same(self, job: Job) -> Job:
        """Return the job of the same request sent before. Raises Problem: the key has another request."""
        asked = Job.owner == job.owner, Job.idempotency == job.idempotency
        for found in await to_thread(self.store.find, *asked):
            if found.fingerprint == job.fingerprint:
                return self._in_memory(found.id) or found
        message = "Idempotency-Key: it was used with another image or other options: use a new one"
        raise Problem(422, "idempotency_mismatch", message)

    async def find(self, job_id: str, owner: str) -> Job:
        """Return an owner's upscale job. Raises Problem: there is none."""
        job = self._in_memory(job_id) or await to_thread(self.store.get, job_id)
        if job is None or job.owner != owner or job.do != "upscale":
            raise Problem(404, "not_found", "no such job, or it has expired")
        return job

    async def jobs_of(self, owner: str, limit: int, before: Job | None) -> list[Job]:
        """Return an owner's newest jobs, or those older than `before`, newest first."""
        jobs = await to_thread(self.store.of_owner, owner, limit, before)
        return [self._in_memory(job.id) or job for job in jobs]

    def view(self, job: Job) -> JobView:
        """Return a job as its owner sees it."""
        return job.view(self.queue.position(job))

    async def watch(self, job: Job) -> AsyncIterator[Job]:
        """Yield the job now and at every change, until it ends or the server stops."""
        while job.live and not self.closing:
            change = self._changes.setdefault(job.id, asyncio.Event())
            yield job
            await change.wait()
        yield job

    async def finished(self, job: Job) -> None:
        """Wait until a job ends or the server stops."""
        async for _ in self.watch(job):
            pass

    async def cancel(self, job: Job) -> None:
        """Cancel a job that is queued or running; a finished one is left as it is."""
        in_work = self.running.get(job.id)
        with contextlib.suppress(ValueError):
            self.queue.jobs.remove(job)
        await self._finish(job, "cancelled")
        self._tell(*self.queue.jobs)
        if in_work is not None:
            await in_work[1].cancel(job.id)
            self.completion.in_background(self._stop_if_working(job, in_work[1]))

    # processing of jobs

    async def _serve(self, worker: WorkerHandle) -> None:
        while True:
            await self._ensure_ready(worker)
            job = await self.queue.take()
            self.running[job.id] = job, worker
            try:
                await self._work(job, worker)
            except Exception:
                _log.exception("job %s could not be carried out", job.id)
                with contextlib.suppress(Exception):
                    await self._finish(job, "failed", "the server failed; its log says why")
            del self.running[job.id]
            if job.live:
                job.status, job.step, job.share = "queued", 0, 0.0
                await self.queue.put(job, first=True)
                await self.completion.save(job)
            self._tell(job)

    async def _ensure_ready(self, worker: WorkerHandle) -> None:
        pause = _FIRST_PAUSE
        while not worker.ready:
            try:
                await worker.start()
            except (UnusableModel, OSError) as error:
                _log.error("a worker failed to start (%s): trying again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)

    async def _work(self, job: Job, worker: WorkerHandle) -> None:
        """Let a worker do a job. If the worker died, the job is still live afterwards, to be tried again."""
        job.status, job.started = "running", now()
        job.attempts += 1
        await self.completion.save(job)
        self._tell(job, *self.queue.jobs)
        begun = time.monotonic()
        allowed = self._settings.seconds_for(job.width * job.height)
        try:
            await asyncio.wait_for(self._carry_out(job, worker), allowed)
        except asyncio.TimeoutError:
            await worker.stop()
            limit = f"it took longer than the {allowed:.4g} s allowed: make the image smaller"
            await self._finish(job, "failed", limit)
        except WorkerDied as death:
            await worker.stop()
            if job.live:  # else the worker was stopped because the job was cancelled
                _log.error("a worker died on job %s (%s), attempt %d", job.id, death, job.attempts)
            if job.attempts >= _MAX_ATTEMPTS:
                lost = "the server could not process this image: make it smaller"
                await self._finish(job, "failed", lost)
        finally:
            took = time.monotonic() - begun
            self.queue.seconds.append(took / len(self.workers))
            worker.jobs += 1
            self.seconds.observe(took)
            await to_thread(self.store.remove_work, job)

    async def _carry_out(self, job: Job, worker: WorkerHandle) -> None:
        if not job.live:  # cancelled while its state was stored
            return
        async for answer in worker.run(self.store.task(job, self._settings.max_pixels)):
            if answer["event"] == "step":
                job.step, job.steps = answer["step"], answer["steps"]
                job.share = answer.get("share", job.step / job.steps)
                self._tell(job)
            elif job.live:
                await self._conclude(job, answer)

    async def _conclude(self, job: Job, answer: Message) -> None:
        job.warnings = answer.get("warnings", [])
        if answer["event"] == "failed":
            return await self._finish(job, "failed", answer["message"])
        # the image may have needed fewer steps than expected
        job.output, job.steps = answer["output"], max(1, job.step)
        job.step = job.steps
        job.tags, job.unknown_tags = answer.get("tags", []), answer.get("unknown_tags", [])
        await self._finish(job, "done")

    async def _finish(self, job: Job, status: Status, error: str | None = None) -> None:
        if not job.live:
            return
        job.status, job.error, job.finished = status, error, now()
        job.expires = job.finished + self._settings.keep_seconds
        self.ended.labels(job.do, status).inc()
        await self.completion.end(job)
        self._tell(job)

    async def _stop_if_working(self, job: Job, worker: WorkerHandle) -> None:
        await asyncio.sleep(_CANCEL_GRACE)
        if job.id in self.running:
            await worker.stop()

    def _in_memory(self, job_id: str) -> Job | None:
        """Return a job that is in memory, which may be newer than in the table; None if it is not."""
        running = [job for job, _ in self.running.values()]
        jobs = (*running, *self.queue.jobs, *self.completion.unwritten.values())
        return next((job for job in jobs if job.id == job_id), None)

    def _tell(self, *jobs: Job) -> None:
        for job in jobs:
            change = self._changes.pop(job.id, None)
            if change is not None:
                change.set()


def _fingerprint(job: Job, image: BinaryIO) -> str:
    image.seek(0)
    return f"{sha256(image.read()).hexdigest()} {job.options}"
