"""The queue of jobs. When it is full, it tells clients how long to wait."""

import asyncio
import math
from collections import deque

from prometheus_client import Counter

from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem
from linearsr.serving.settings import MIB, ServeSettings

_MAX_RETRY_SECONDS = 60


class JobQueue:
    """Jobs that no worker has taken yet, and uploads that will become jobs. It lives in one event loop."""

    def __init__(self, settings: ServeSettings) -> None:
        self._max_length = settings.max_queue
        self._max_bytes = max(settings.max_bytes, settings.max_upload_bytes)
        self._changed = asyncio.Condition()
        self.jobs: list[Job] = []
        self.uploads: dict[object, int] = {}
        """Bytes received of each upload in progress, by its place."""
        self.seconds: deque[float] = deque(maxlen=20)
        """Recent times from one job's end to the next one's."""
        text = "Requests refused because the queue was full."
        self.refused = Counter("refused", text, namespace="linearsr", registry=None)

    def __len__(self) -> int:
        return len(self.jobs) + len(self.uploads)

    @property
    def upload_bytes(self) -> int:
        """Bytes received of all uploads in progress."""
        return sum(self.uploads.values())

    def reserve(self) -> object:
        """Reserve a place for an upload. Raises Problem, with the time to come back: the queue is full."""
        if len(self) >= self._max_length:
            mean = sum(self.seconds) / len(self.seconds) if self.seconds else 1.0
            seconds = min(max(1, math.ceil(mean * len(self) / 2)), _MAX_RETRY_SECONDS)
            self.refused.inc()
            message = f"{len(self)} jobs are waiting already: try again later"
            raise Problem(429, "busy", message, {"Retry-After": str(seconds)})
        place = object()
        self.uploads[place] = 0
        return place

    def grow(self, place: object, size: int) -> None:
        """Count `size` more bytes of an upload. Raises Problem: all uploads together have too many."""
        if self.upload_bytes + size > self._max_bytes:
            limit = f"{self._max_bytes / MIB:g} MiB are being sent already: try again later"
            raise Problem(503, "busy", limit, {"Retry-After": "5", "Connection": "close"})
        self.uploads[place] += size

    def release(self, place: object) -> None:
        """Free the place of an upload; a second call does nothing."""
        self.uploads.pop(place, None)

    async def put(self, job: Job, *, first: bool = False) -> None:
        """Add a job at the end or, if `first`, at the head. A tags job goes before upscale jobs."""
        async with self._changed:
            # tags take milliseconds, and a user waits for them before sending the next request
            after_tags = max((i for i, other in enumerate(self.jobs, 1) if other.do == "tags"), default=0)
            self.jobs.insert(0 if first else after_tags if job.do == "tags" else len(self.jobs), job)
            self._changed.notify()

    async def take(self) -> Job:
        """Wait for a job, and remove it from the head of the queue."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.jobs)
            return self.jobs.pop(0)

    def position(self, job: Job) -> int | None:
        """Return how many jobs are before this one; None unless it is in the queue."""
        return self.jobs.index(job) if job in self.jobs else None
