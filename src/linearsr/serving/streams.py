"""Streams of events: how a job stands, told to any number of watchers."""

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
"""By which a change is spread over those who hear of it, so that others are answered in between."""


class Streams:
    """All streams that are open."""

    def __init__(self, dispatcher: Dispatcher, most: int) -> None:
        self._dispatcher, self._most = dispatcher, most
        self._clients: Counter[str] = Counter()
        self._watchers: Counter[str] = Counter()
        self._told: dict[str, tuple[object, ServerSentEvent]] = {}

    @contextmanager
    def opened(self, client: str) -> Iterator[None]:
        """Room for one more stream of a client. Raises Problem if it has too many."""
        if self._clients[client] >= self._most:
            message = f"you have {self._most} event streams open: close some, or ask for the job itself"
            raise Problem(429, "busy", message, {"Retry-After": "5"})
        self._clients[client] += 1
        try:
            yield
        finally:
            self._clients -= Counter([client])

    async def follow(self, job: Job) -> AsyncIterator[ServerSentEvent]:
        """How a job stands, and again at every change that there is time to tell of, to the last."""
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
        """The same object for all who hear of the same state."""
        position = self._dispatcher.queue.position(job)
        state = (job.status, job.step, job.steps, job.share, job.started, job.expires, position)
        told = self._told.get(job.id)
        if told is None or told[0] != state:
            kind = "progress" if job.live else job.status
            text = job.view(position).model_dump_json()
            told = self._told[job.id] = state, ServerSentEvent(event=kind, raw_data=text)
        return told[1]
