"""The queue of jobs, and how long a client that it has no room for should stay away."""

import asyncio
import math
from collections import deque

from linearsr.serving.jobs import Job
from linearsr.serving.metrics import Metrics
from linearsr.serving.problems import Problem
from linearsr.serving.settings import MIB, ServeSettings

_MAX_RETRY_SECONDS = 60


class JobQueue:
    """Jobs that no worker has taken yet, and uploads that become jobs. All of it in one event loop."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._settings, self._metrics = settings, metrics
        self.max_upload_bytes = max(settings.max_bytes, settings.max_upload_bytes)
        self.uploads = self.upload_bytes = 0
        """Uploads on their way, and the bytes of all of them together."""
        self._changed = asyncio.Condition()
        self.jobs: list[Job] = []
        self.seconds: deque[float] = deque(maxlen=20)
        """From one job's end to the next one's, of late."""

    def __len__(self) -> int:
        return len(self.jobs) + self.uploads

    def reserve(self) -> "Reservation":
        """A place for an upload that begins. Raises Problem, with the time to come back, if the queue is full."""
        if len(self) >= self._settings.max_queue:
            mean = sum(self.seconds) / len(self.seconds) if self.seconds else 1.0
            seconds = math.ceil(mean * len(self) / 2)
            retry = {"Retry-After": str(min(max(1, seconds), _MAX_RETRY_SECONDS))}
            self._metrics.refused.inc()
            raise Problem(429, "busy", f"{len(self)} jobs are waiting already: come back later", retry)
        return Reservation(self)

    async def put(self, job: Job, *, first: bool = False) -> None:
        """Add a job at the end, or at the head."""
        async with self._changed:
            # tags are a matter of milliseconds, and somebody waits for them before they ask for more
            tags = sum(other.do == "tags" for other in self.jobs)
            self.jobs.insert(0 if first else tags if job.do == "tags" else len(self.jobs), job)
            self._changed.notify()

    async def take(self) -> Job:
        """Wait for a job."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.jobs)
            return self.jobs.pop(0)

    def remove(self, job: Job) -> None:
        """Take a job out, if it is there."""
        if job in self.jobs:
            self.jobs.remove(job)

    def position(self, job: Job) -> int | None:
        """How many jobs are before it; None unless it is in the queue."""
        return self.jobs.index(job) if job in self.jobs else None


class Reservation:
    """A place in the queue and the memory that one upload takes up, until it is released."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue, self._size, self._released = queue, 0, False
        queue.uploads += 1

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises Problem if all uploads together hold too many."""
        if self._released:
            return
        most = self._queue.max_upload_bytes
        if self._queue.upload_bytes + size > most:
            limit = f"{most / MIB:g} MiB are being sent already: come back later"
            raise Problem(503, "busy", limit, {"Retry-After": "5", "Connection": "close"})
        self._queue.upload_bytes += size
        self._size += size

    def release(self) -> None:
        """Make room; a second time does nothing."""
        if not self._released:
            self._released = True
            self._queue.uploads -= 1
            self._queue.upload_bytes -= self._size
