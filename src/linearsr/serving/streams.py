"""Event streams: they send the state of a job to any number of clients."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fastapi.sse import ServerSentEvent

from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem

_SECONDS_EACH, _LONGEST_SPREAD = 0.003, 3.0
"""Seconds per watcher over which a change is spread, and their limit: other requests are answered between."""


class Streams:
    """The open event streams, of which each client may have a limited number."""

    def __init__(self, dispatcher: Dispatcher, most: int) -> None:
        self._dispatcher, self._most = dispatcher, most
        self._clients: Counter[str] = Counter()
        self._watchers: Counter[str] = Counter()
        self._told: dict[str, tuple[object, ServerSentEvent]] = {}

    @contextmanager
    def opened(self, client: str) -> Iterator[None]:
        """Count one more stream of a client while the block runs. Raises Problem: it has too many."""
        if self._clients[client] >= self._most:
            message = f"you have {self._most} event streams open: close some, or ask for the job itself"
            raise Problem(429, "busy", message, {"Retry-After": "5"})
        self._clients[client] += 1
        try:
            yield
        finally:
            self._clients -= Counter([client])

    async def follow(self, job: Job) -> AsyncIterator[ServerSentEvent]:
        """Yield the state of a job now and after changes, up to the last; fast changes are merged."""
        last = None
        self._watchers[job.id] += 1
        try:
            async for state in self._dispatcher.watch(job):
                if last is not None and not self._dispatcher.closing:
                    spread = min(_LONGEST_SPREAD, _SECONDS_EACH * (self._watchers.total() - 1))
                    await asyncio.sleep(random.uniform(0, spread))
                event = self._event(state)
                if event is not last:
                    yield event
                last = event
        finally:
            self._watchers -= Counter([job.id])
            if job.id not in self._watchers:
                self._told.pop(job.id, None)

    def _event(self, job: Job) -> ServerSentEvent:
        """Return the event for the current state, the same object for all watchers."""
        position = self._dispatcher.queue.position(job)
        state = (job.status, job.step, job.steps, job.share, job.started, job.expires, position)
        told = self._told.get(job.id)
        if told is None or told[0] != state:
            kind = "progress" if job.live else job.status
            text = job.view(position).model_dump_json()
            told = self._told[job.id] = state, ServerSentEvent(event=kind, raw_data=text)
        return told[1]
