"""From accepted jobs to workers: one bounded queue, a worker process for each device, and who wants to know."""

import asyncio
import contextlib
import logging
import math
import time
from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import BinaryIO

from prometheus_client import Metric
from sqlalchemy.exc import IntegrityError

from linearsr.serving.endings import Endings
from linearsr.serving.job_queue import JobQueue, Place
from linearsr.serving.jobs import Job, JobStore, now
from linearsr.serving.metrics import Metrics, gauge
from linearsr.serving.problems import Problem
from linearsr.serving.schemas import ModelCard, Status
from linearsr.serving.settings import ServeSettings
from linearsr.serving.supervision import UnusableModel, WorkerDied, WorkerHandle
from linearsr.serving.worker import Message

_log = logging.getLogger(__name__)
_MOST_ATTEMPTS = 3
_CANCEL_GRACE = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class Dispatcher:
    """Takes jobs in, has them done in order, and tells of them. All of it in one event loop."""

    def __init__(self, settings: ServeSettings, store: JobStore, metrics: Metrics) -> None:
        self._settings, self._store, self._metrics = settings, store, metrics
        self._endings = Endings(settings, store)
        self._workers = [WorkerHandle(settings.model, d, settings.dtype) for d in settings.devices]
        self._running: dict[str, tuple[Job, WorkerHandle]] = {}
        self.queue = JobQueue(settings, metrics)
        self._adding = asyncio.Lock()
        self._refused = 0
        self._changes: dict[str, asyncio.Event] = {}
        self.closing = False
        """Whether the server ends."""
        self._tasks: list[asyncio.Task[None]] = []
        metrics.registry.register(self)
        self.card: ModelCard
        """The model's, known once started."""

    # the server's life

    async def start(self) -> None:
        """Load the model and go on with the jobs of the last time.

        Raises:
            UnusableModel: the model cannot be loaded.
        """
        cards = await asyncio.gather(*(worker.start() for worker in self._workers))
        devices = [device for card in cards for device in card["devices"]]
        self.card = ModelCard(**{**cards[0], "devices": devices}, max_steps=self._settings.max_steps)
        await to_thread(self._store.clean)
        for job in await to_thread(self._store.live):
            job.status, job.step = "queued", 0
            self._store.reserve(job, _room(job))
            await self.queue.put(job)
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self._workers]
        await self._endings.start()

    def release(self) -> None:
        """Tell all who wait for jobs that the server ends."""
        self.closing = True
        for change in self._changes.values():
            change.set()

    async def stop(self) -> None:
        """End the workers; what they were doing is done when the server comes back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))
        await self._endings.stop()

    @property
    def ready(self) -> bool:
        """Whether any worker could do something."""
        return any(worker.ready for worker in self._workers)

    @property
    def restarts(self) -> int:
        """How many worker processes had to be replaced."""
        return sum(max(0, worker.starts - 1) for worker in self._workers)

    def collect(self) -> Iterator[Metric]:
        """How queue, workers and disk stand."""
        oldest = self.queue.waiting[0].created if self.queue.waiting else now()
        yield gauge("jobs_waiting", "Jobs in the queue.", len(self.queue))
        yield gauge("jobs_waiting_seconds", "Age of the next job.", now() - oldest)
        yield gauge("jobs_running", "Jobs in work.", len(self._running))
        yield gauge("uploads_bytes", "Of uploads on their way.", self.queue.arriving_bytes)
        yield gauge("ends_unwritten", "Jobs whose end is not on disk yet.", len(self._endings.unwritten))
        yield gauge("results_bytes", "Of results, and of those to come.", self._store.taken)
        yield gauge("disk_free_bytes", "Of the disk of results.", self._store.free)
        yield gauge("worker_restarts", "Worker processes that were replaced.", self.restarts)
        yield gauge("ready", "1 if a worker could work.", self.ready)
        names = [(str(number), worker.device) for number, worker in enumerate(self._workers)]
        busy = [worker for _, worker in self._running.values()]
        for name, text, values in (
            ("worker_up", "1 if it could work.", [worker.ready for worker in self._workers]),
            ("worker_starts", "Processes there have been.", [worker.starts for worker in self._workers]),
            ("worker_jobs_running", "Jobs in work.", [busy.count(worker) for worker in self._workers]),
            ("worker_jobs_ended", "Jobs that it ended.", [worker.jobs for worker in self._workers]),
        ):
            yield gauge(name, text, dict(zip(names, values, strict=True)))

    # what callers do

    def require_room(self, job: Job | None = None) -> None:
        """Raises Problem if there is no room for a job's result, or for one as was refused last."""
        if job is not None:
            self._refused = _room(job)
        self._store.require_room(self._refused)
        self._refused = 0

    def enter(self) -> Place:
        """A place for an upload that begins. Raises Problem, with the time to come back, if there is no room."""
        self._store.require_room()
        return self.queue.enter()

    async def accept(self, job: Job, image: BinaryIO, place: Place | None = None) -> Job:
        """Take in a job with its image, which is closed; once this returns it is not lost.

        Returns it, or that of the same request sent before.

        Raises Problem if it has no place yet and the queue is full, if there is no room for its result, or if another
        request had its idempotency key.
        """
        place = place or self.enter()
        try:
            if job.idempotency is not None:
                job.fingerprint = await to_thread(_fingerprint, job, image)
            async with self._adding:
                self.require_room(job)
                await to_thread(self._store.add, job, image)
                self._store.reserve(job, _room(job))
                await to_thread(image.close)
                await self.queue.put(job)
                return job
        except IntegrityError:
            return await self._same(job)
        finally:
            place.leave()

    async def _same(self, job: Job) -> Job:
        """The job of an earlier request with the same key."""
        asked = Job.owner == job.owner, Job.idempotency == job.idempotency
        for found in await to_thread(self._store.find, *asked):
            if found.fingerprint == job.fingerprint:
                return self._live_job(found.id) or found
        message = "Idempotency-Key: it was given with another image or other options: make a new one"
        raise Problem(422, "idempotency_mismatch", message)

    async def find(self, job_id: str, owner: str) -> Job:
        """An owner's job. Raises Problem if there is none."""
        job = self._live_job(job_id) or await to_thread(self._store.get, job_id)
        if job is None or job.owner != owner or job.do != "upscale":
            raise Problem(404, "not_found", "there is no such job, or it has expired")
        return job

    async def jobs_of(self, owner: str, limit: int, before: Job | None) -> list[Job]:
        """An owner's newest jobs, or those older than `before`, newest first."""
        jobs = await to_thread(self._store.of_owner, owner, limit, before)
        return [self._live_job(job.id) or job for job in jobs]

    def position(self, job: Job) -> int | None:
        """How many jobs are before it; None unless it waits."""
        return self.queue.position(job)

    async def watch(self, job: Job) -> AsyncIterator[Job]:
        """The job as it stands, and again at every change, to its end or that of the server."""
        while job.live and not self.closing:
            change = self._changes.setdefault(job.id, asyncio.Event())
            yield job
            await change.wait()
        yield job

    async def finished(self, job: Job) -> None:
        """Wait for a job's end or that of the server."""
        async for _ in self.watch(job):
            pass

    async def cancel(self, job: Job) -> None:
        """Stop a job, wherever it is."""
        in_work = self._running.get(job.id)
        self.queue.remove(job)
        await self._finish(job, "cancelled")
        self._tell(*self.queue.waiting)
        if in_work is not None:
            await in_work[1].cancel(job.id)
            self._endings.in_background(self._stop_if_working(job, in_work[1]))

    async def remove(self, job: Job) -> None:
        """Forget a finished job."""
        await self._endings.remove(job)

    # what happens to jobs

    async def _serve(self, worker: WorkerHandle) -> None:
        while True:
            await self._ensure_ready(worker)
            # guidance is each image's own
            jobs = await self.queue.take(1 if self.card.guided else self._settings.max_batch)
            self._running |= {job.id: (job, worker) for job in jobs}
            try:
                await self._work(jobs, worker)
            except Exception:
                _log.exception("jobs %s could not be carried out", ", ".join(job.id for job in jobs))
                with contextlib.suppress(Exception):
                    for job in jobs:
                        await self._finish(job, "failed", "the server failed; its log says why")
            for job in reversed(jobs):
                del self._running[job.id]
                if job.live:
                    await self._requeue(job)
            self._tell(*jobs)

    async def _ensure_ready(self, worker: WorkerHandle) -> None:
        pause = _FIRST_PAUSE
        while not worker.ready:
            try:
                await worker.start()
            except (UnusableModel, OSError) as error:
                _log.error("a worker does not start (%s): trying again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _work(self, jobs: list[Job], worker: WorkerHandle) -> None:
        """Have jobs done. Those that are live after it, as the worker died or several took too long, go on later."""
        for job in jobs:
            if job.live:  # and not cancelled while those before it were written down
                job.status, job.started = "running", now()
                job.attempts += 1
                await self._endings.written(job)
        self._tell(*jobs, *self.queue.waiting)
        begun = time.monotonic()
        try:
            await asyncio.wait_for(self._carry_out(jobs, worker), self._settings.max_seconds)
        except asyncio.TimeoutError:
            await worker.stop()
            limit = (
                f"it took longer than the {self._settings.max_seconds:g} s allowed: make the image smaller"
            )
            if len(jobs) == 1:
                await self._finish(jobs[0], "failed", limit)
        except WorkerDied as death:
            await worker.stop()
            for job in jobs:
                if job.live:  # else it was we who ended it
                    _log.error("a worker died on job %s (%s), attempt %d", job.id, death, job.attempts)
                if job.attempts >= _MOST_ATTEMPTS:
                    lost = "the server could not work on this image: make it smaller"
                    await self._finish(job, "failed", lost)
        finally:
            seconds = time.monotonic() - begun
            self.queue.seconds.append(seconds / len(jobs) / len(self._workers))
            worker.jobs += len(jobs)
            for _ in jobs:
                self._metrics.job_seconds.observe(seconds)

    async def _carry_out(self, jobs: list[Job], worker: WorkerHandle) -> None:
        wanted = {job.id: job for job in jobs if job.live}
        async for answer in worker.run([self._task(job) for job in wanted.values()]):
            job = wanted[answer["id"]]
            if answer["event"] == "step":
                job.step, job.steps = answer["step"], answer["steps"]
                self._tell(job)
            else:
                await self._conclude(job, answer)

    def _task(self, job: Job) -> Message:
        options = dict(job.options)
        task = {"do": job.do, "id": job.id, "input": str(self._store.input_path(job))}
        if job.do == "upscale":
            task["output"] = str(self._store.result_path(job))
            del options["format"]
            task["quality"] = options.pop("quality")
            options["num_inference_steps"] = options.pop("steps")
        return {**task, "options": options, "max_pixels": self._settings.max_pixels}

    async def _conclude(self, job: Job, answer: Message) -> None:
        if not job.live:
            return
        job.warnings = answer.get("warnings", [])
        if answer["event"] == "failed":
            return await self._finish(job, "failed", answer["message"])
        # an image that needed fewer than the model may take
        job.output, job.steps = answer["output"], max(1, job.step)
        job.step = job.steps
        job.tags, job.unknown_tags = answer.get("tags", []), answer.get("unknown_tags", [])
        await self._finish(job, "done")

    async def _requeue(self, job: Job) -> None:
        job.status, job.step = "queued", 0
        await self.queue.put(job, again=True)
        await self._endings.written(job)

    async def _finish(self, job: Job, status: Status, error: str | None = None) -> None:
        if not job.live:
            return
        job.status, job.error, job.finished = status, error, now()
        job.expires = job.finished + self._settings.keep_seconds
        self._metrics.jobs.labels(job.do, status).inc()
        await self._endings.end(job)
        self._tell(job)

    async def _stop_if_working(self, job: Job, worker: WorkerHandle) -> None:
        await asyncio.sleep(_CANCEL_GRACE)
        in_work = [other for other, its_worker in self._running.values() if its_worker is worker]
        if job in in_work and not any(other.live for other in in_work):
            await worker.stop()

    def _live_job(self, job_id: str) -> Job | None:
        if job_id in self._running:
            return self._running[job_id][0]
        return self.queue.find(job_id) or self._endings.unwritten.get(job_id)

    def _tell(self, *jobs: Job) -> None:
        for job in jobs:
            change = self._changes.pop(job.id, None)
            if change is not None:
                change.set()


def _room(job: Job) -> int:
    """Bytes that a result may take: four for each pixel."""
    scale: float = job.options.get("scale", 0)
    return 4 * math.ceil(job.width * scale) * math.ceil(job.height * scale)


def _fingerprint(job: Job, image: BinaryIO) -> str:
    image.seek(0)
    return f"{sha256(image.read()).hexdigest()} {job.options}"
