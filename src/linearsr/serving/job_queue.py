"""The queue of jobs, and how long a client that it has no room for should stay away."""

import asyncio
import math
from collections import deque
from itertools import islice

from linearsr.serving.jobs import Job
from linearsr.serving.metrics import Metrics
from linearsr.serving.problems import Problem
from linearsr.serving.settings import MIB, ServeSettings

_LONGEST_RETRY = 60


class JobQueue:
    """Jobs that wait for a worker. All of it in one event loop."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._most_bytes = max(settings.max_bytes, settings.max_upload_bytes)
        self.arriving = self.arriving_bytes = 0
        """Uploads on their way, which no job holds yet, and the bytes of all of them together."""
        self._arrival = asyncio.Condition()
        self.waiting: list[Job] = []
        self.seconds: deque[float] = deque(maxlen=20)
        """From one job's end to the next one's, of late."""

    def __len__(self) -> int:
        """Jobs in the queue, and on their way into it."""
        return len(self.waiting) + self.arriving

    def grow(self, size: int) -> None:
        """So many bytes more arrive, or fewer. Raises Problem if all uploads together hold too many."""
        if self.arriving_bytes + size > self._most_bytes:
            limit = f"{self._most_bytes / MIB:g} MiB are being sent already: come back later"
            raise Problem(503, "busy", limit, {"Retry-After": "5", "Connection": "close"})
        self.arriving_bytes += size

    def enter(self) -> "Place":
        """A place for an upload that begins. Raises Problem, with the time to come back, if the queue is full."""
        if len(self) >= self._settings.max_queue:
            mean = sum(self.seconds) / len(self.seconds) if self.seconds else 1.0
            seconds = math.ceil(mean * len(self) / 2)
            retry = {"Retry-After": str(min(max(1, seconds), _LONGEST_RETRY))}
            self._metrics.refused.inc()
            raise Problem(429, "busy", f"{len(self)} jobs are waiting already: come back later", retry)
        return Place(self)

    async def put(self, job: Job, *, again: bool = False) -> None:
        """At the end; or at the head, where it is done `again`."""
        async with self._arrival:
            # tags are a matter of milliseconds, and somebody waits for them before they ask for more
            tags = sum(other.do == "tags" for other in self.waiting)
            self.waiting.insert(0 if again else tags if job.do == "tags" else len(self.waiting), job)
            self._arrival.notify()

    async def take(self, most: int) -> list[Job]:
        """Wait for a job; those of the queue that a worker may do in one go with it come along."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.waiting)
            kind = _kind(self.waiting[0])
            jobs = list(islice((job for job in self.waiting if _kind(job) == kind), most))
            for job in jobs:
                self.waiting.remove(job)
            return jobs

    def remove(self, job: Job) -> None:
        """Take a job out, if it is there."""
        if job in self.waiting:
            self.waiting.remove(job)

    def position(self, job: Job) -> int | None:
        """How many jobs are before it; None unless it waits."""
        return self.waiting.index(job) if job in self.waiting else None

    def find(self, job_id: str) -> Job | None:
        """The job of that name."""
        return next((job for job in self.waiting if job.id == job_id), None)


class Place:
    """What one upload takes up, until it is left."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue, self._size, self._left = queue, 0, False
        queue.arriving += 1

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises Problem if all uploads together hold too many."""
        if not self._left:
            self._queue.grow(size)
            self._size += size

    def leave(self) -> None:
        """Make room; a second time does nothing."""
        if not self._left:
            self._left = True
            self._queue.arriving -= 1
            self._queue.arriving_bytes -= self._size


def _kind(job: Job) -> object:
    """What is equal for jobs that can be done in one go: images of one size with the same options, not tried before."""
    if job.do != "upscale" or job.attempts:
        return job.id
    each_own = {"seed", "format", "quality"}
    return job.width, job.height, {name: job.options[name] for name in job.options.keys() - each_own}
