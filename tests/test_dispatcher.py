"""What cancelling does to jobs while the table is written, which a slow disk makes long."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from linearsr.serving import dispatcher as module
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job, JobStore
from linearsr.serving.metrics import Metrics
from linearsr.serving.settings import ServeSettings
from linearsr.serving.worker import card
from tiny_model import build

OPTIONS = {"seed": 0, "format": "png", "quality": 95, "steps": 1}


class Worker:
    """Does everything at once, but what was cancelled."""

    ready, starts = True, 1

    def __init__(self, *arguments: object) -> None:
        self.cancelled: set[str] = set()

    async def start(self) -> dict[str, Any]:
        return card(build())

    async def run(self, tasks: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        for task in tasks:
            event = "cancelled" if task["id"] in self.cancelled else "done"
            yield {"event": event, "id": task["id"]} | ({"output": {}} if event == "done" else {})

    async def cancel(self, job_id: str) -> None:
        self.cancelled.add(job_id)

    async def stop(self) -> None:
        pass


class SlowStore(JobStore):
    """Writes a job that is `held`, in the state that is waited for, once it is let go."""

    held: Job | None = None
    status = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.writing, self.let_go = threading.Event(), threading.Event()

    def hold(self, job: Job, status: str) -> None:
        self.held, self.status = job, status

    def save(self, job: Job) -> None:
        if job is self.held and job.status == self.status:
            self.writing.set()
            assert self.let_go.wait(20)
        super().save(job)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    monkeypatch.setattr(module, "WorkerHandle", Worker)
    return ServeSettings(tmp_path)


def jobs_of(count: int) -> list[Job]:
    return [Job("upscale", "", 8, 8, 1, OPTIONS) for _ in range(count)]


def test_a_job_that_is_cancelled_before_its_batch_begins_hurts_no_other(settings: ServeSettings) -> None:
    store = SlowStore(settings.data)

    async def run() -> list[str]:
        queue = Dispatcher(replace(settings, max_batch=3), store, Metrics())
        first, second, third = jobs = jobs_of(3)
        for job in jobs:
            await queue.accept(job, io.BytesIO())
        store.hold(first, "running")
        await queue.start()
        await asyncio.to_thread(store.writing.wait, 20)
        await queue.cancel(second)
        store.let_go.set()
        await asyncio.wait_for(asyncio.gather(queue.finished(first), queue.finished(third)), 20)
        await queue.stop()
        return [job.status for job in jobs]

    assert asyncio.run(run()) == ["done", "cancelled", "done"]
    store.close()


def test_who_asks_for_a_job_while_it_ends_hears_of_its_end(settings: ServeSettings) -> None:
    store = SlowStore(settings.data)

    async def run() -> str:
        queue = Dispatcher(settings, store, Metrics())
        (job,) = jobs_of(1)
        await queue.accept(job, io.BytesIO())
        store.hold(job, "cancelled")
        cancelling = asyncio.create_task(queue.cancel(job))
        await asyncio.to_thread(store.writing.wait, 20)
        found = await queue.find(job.id, "")
        watching = asyncio.create_task(queue.finished(found))
        store.let_go.set()
        await cancelling
        await asyncio.wait_for(watching, 20)
        return found.status

    assert asyncio.run(run()) == "cancelled"
    store.close()
