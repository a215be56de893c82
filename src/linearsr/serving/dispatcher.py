"""From accepted jobs to workers: one bounded queue, a worker process for each device, and who wants to know."""

import asyncio
import contextlib
import logging
import math
import time
from asyncio import to_thread
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, BinaryIO

from linearsr.serving.arrivals import Arrivals, Place
from linearsr.serving.jobs import Job, JobStore, cause
from linearsr.serving.metrics import Metrics
from linearsr.serving.problems import Problem
from linearsr.serving.schemas import ModelCard, Status
from linearsr.serving.settings import ServeSettings
from linearsr.serving.supervision import UnusableModel, WorkerDied, WorkerHandle
from linearsr.serving.worker import Message

_log = logging.getLogger(__name__)
_MOST_ATTEMPTS = 3
_CANCEL_GRACE = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LONGEST_RETRY = 60
_FIRST_REWRITE, _LONGEST_REWRITE = 0.5, 10.0


class Dispatcher:
    """Takes jobs in, has them done in order, and tells of them. All of it in one event loop."""

    def __init__(self, settings: ServeSettings, store: JobStore, metrics: Metrics) -> None:
        self._settings, self._store, self._metrics = settings, store, metrics
        self._workers = [WorkerHandle(settings.model, d, settings.dtype) for d in settings.devices]
        self._running: dict[str, tuple[Job, WorkerHandle]] = {}
        self._waiting: list[Job] = []
        self._ending: dict[str, Job] = {}
        self._arrivals = Arrivals(max(settings.max_bytes, settings.max_upload_bytes))
        self._arrival = asyncio.Condition()
        self._changes: dict[str, asyncio.Event] = {}
        self.closing = False
        """Whether the server ends."""
        self._seconds: deque[float] = deque(maxlen=20)
        self._tasks: list[asyncio.Task[None]] = []
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
        await to_thread(self._store.remove_strays)
        for job in await to_thread(self._store.live):
            job.status, job.step = "queued", 0
            self._waiting.append(job)
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in self._workers]
        self._tasks.append(asyncio.create_task(self._expire()))

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
        for job in list(self._ending.values()):
            if not await self._written(job):
                _log.error("the end of job %s could not be written: it is done again after a restart", job.id)

    @property
    def ready(self) -> bool:
        """Whether any worker could do something."""
        return any(worker.ready for worker in self._workers)

    @property
    def restarts(self) -> int:
        """How many worker processes had to be replaced."""
        return sum(max(0, worker.starts - 1) for worker in self._workers)

    @property
    def num_waiting(self) -> int:
        """Jobs in the queue, and on their way into it."""
        return len(self._waiting) + self._arrivals.count

    @property
    def num_running(self) -> int:
        """Jobs in work."""
        return len(self._running)

    # what callers do

    def require_room(self) -> None:
        """Raises Problem, with the time to come back, if the queue is full."""
        if self.num_waiting >= self._settings.max_queue:
            mean = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
            seconds = math.ceil(mean * self.num_waiting / len(self._workers) / 2)
            retry = {"Retry-After": str(min(max(1, seconds), _LONGEST_RETRY))}
            self._metrics.refused.inc()
            raise Problem(429, "busy", f"{self.num_waiting} jobs are waiting already: come back later", retry)

    def enter(self) -> Place:
        """A place for an upload that begins. Raises Problem if the queue is full."""
        self.require_room()
        return Place(self._arrivals)

    async def accept(self, job: Job, image: BinaryIO, place: Place | None = None) -> None:
        """Take in a job with its image, which is closed; once this returns it is not lost.

        Raises Problem if it has no place yet and the queue is full.
        """
        place = place or self.enter()
        try:
            await to_thread(self._store.add, job, image)
            await to_thread(image.close)
            async with self._arrival:
                # tags are a matter of milliseconds, and somebody waits for them before they ask for more
                before = sum(other.do == "tags" for other in self._waiting)
                self._waiting.insert(before if job.do == "tags" else len(self._waiting), job)
                self._arrival.notify()
        finally:
            place.leave()

    async def find(self, job_id: str, owner: str) -> Job:
        """An owner's job. Raises Problem if there is none."""
        job = self._live_job(job_id) or await to_thread(self._store.get, job_id)
        if job is None or job.owner != owner or job.do != "upscale":
            raise Problem(404, "not_found", "there is no such job, or it has expired")
        return job

    def position(self, job: Job) -> int | None:
        """How many jobs are before it; None unless it waits."""
        return self._waiting.index(job) if job in self._waiting else None

    def result_path(self, job: Job, format: str | None = None) -> Path:
        """Where a finished job's image lies, or its version in another format."""
        return self._store.result_path(job, format)

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
        if job in self._waiting:
            self._waiting.remove(job)
        await self._finish(job, "cancelled")
        self._tell(*self._waiting)
        if in_work is not None:
            await in_work[1].cancel(job.id)
            self._in_background(self._stop_if_working(job, in_work[1]))

    async def remove(self, job: Job) -> None:
        """Forget a finished job."""
        await to_thread(self._store.remove, job)
        self._ending.pop(job.id, None)

    # what happens to jobs

    async def _serve(self, worker: WorkerHandle) -> None:
        while True:
            await self._ensure_ready(worker)
            async with self._arrival:
                await self._arrival.wait_for(lambda: self._waiting)
                jobs = self._take()
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

    def _take(self) -> list[Job]:
        """The next job out of the queue, and those that a worker may do in one go with it."""
        kind = _kind(self._waiting[0])
        alike = [job for job in self._waiting if _kind(job) == kind]
        # guidance is each image's own
        jobs = alike[: 1 if self.card.guided else self._settings.max_batch]
        for job in jobs:
            self._waiting.remove(job)
        return jobs

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
                job.status, job.started = "running", time.time()
                job.attempts += 1
                await self._written(job)
        self._tell(*jobs, *self._waiting)
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
            self._seconds.append(seconds / len(jobs))
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
        self._waiting.insert(0, job)
        await self._written(job)
        async with self._arrival:
            self._arrival.notify()

    async def _finish(self, job: Job, status: Status, error: str | None = None) -> None:
        if not job.live:
            return
        job.status, job.error, job.finished = status, error, time.time()
        job.expires = job.finished + self._settings.keep_seconds
        self._metrics.jobs.labels(job.do, status).inc()
        self._ending[job.id] = job
        if await self._written(job):
            self._ending.pop(job.id, None)
        else:
            self._in_background(self._write_end(job))
        self._tell(job)

    async def _written(self, job: Job) -> bool:
        """Write down how a job stands, if that can be done: what is in memory holds until it is."""
        try:
            await to_thread(self._store.save, job)
        except Exception as error:
            _log.warning("job %s (%s) could not be written: %s", job.id, job.status, cause(error))
            return False
        return True

    async def _write_end(self, job: Job) -> None:
        """Try again and again: a full disk or a locked table is so for a while."""
        pause = _FIRST_REWRITE
        while job.id in self._ending:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_REWRITE)
            if job.id in self._ending and await self._written(job):
                self._ending.pop(job.id, None)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _stop_if_working(self, job: Job, worker: WorkerHandle) -> None:
        await asyncio.sleep(_CANCEL_GRACE)
        in_work = [other for other, its_worker in self._running.values() if its_worker is worker]
        if job in in_work and not any(other.live for other in in_work):
            await worker.stop()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(60, self._settings.keep_seconds / 2))
            try:
                await to_thread(self._store.remove_expired)
            except Exception:
                _log.exception("expired jobs could not be removed")

    def _live_job(self, job_id: str) -> Job | None:
        if job_id in self._running:
            return self._running[job_id][0]
        waiting = next((job for job in self._waiting if job.id == job_id), None)
        return waiting or self._ending.get(job_id)

    def _tell(self, *jobs: Job) -> None:
        for job in jobs:
            change = self._changes.pop(job.id, None)
            if change is not None:
                change.set()


def _kind(job: Job) -> object:
    """What is equal for jobs that can be done in one go: images of one size with the same options, not tried before."""
    if job.do != "upscale" or job.attempts:
        return job.id
    each_own = {"seed", "format", "quality"}
    return job.width, job.height, {name: job.options[name] for name in job.options.keys() - each_own}
