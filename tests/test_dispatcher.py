"""Jobs while the table cannot be written, as the disk is slow or full or the table locked: none is left behind."""

import asyncio
import io
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from linearsr.serving import completion, jobs
from linearsr.serving import dispatcher as module
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job, JobStore
from linearsr.serving.schemas import JobView
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

    async def run(self, task: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        event = "cancelled" if task["id"] in self.cancelled else "done"
        yield {"event": event, "id": task["id"]} | ({"output": {}} if event == "done" else {})

    async def cancel(self, job_id: str) -> None:
        self.cancelled.add(job_id)

    async def stop(self) -> None:
        pass


class LateWorker(Worker):
    """Hears that a job is cancelled when it is past the last step."""

    async def run(self, task: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        while task["id"] not in self.cancelled:
            await asyncio.sleep(0.01)
        yield {"event": "done", "id": task["id"], "output": {"width": 32}}


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
    monkeypatch.setattr(completion, "_FIRST_RETRY", 0.05)
    monkeypatch.setattr(jobs, "_BUSY_SECONDS", 0.1)
    return ServeSettings(tmp_path)


@pytest.fixture
def store(settings: ServeSettings) -> Iterator["SlowStore"]:
    store = SlowStore(settings.data)
    yield store
    store.close()


def jobs_of(count: int) -> list[Job]:
    return [Job("upscale", "", 8, 8, 1, OPTIONS) for _ in range(count)]


def test_a_job_that_is_cancelled_before_it_begins_is_not_done(
    settings: ServeSettings, store: SlowStore
) -> None:
    async def run() -> list[str]:
        queue = Dispatcher(settings, store)
        first, second = jobs = jobs_of(2)
        for job in jobs:
            await queue.accept(job, io.BytesIO(), queue.reserve())
        store.hold(first, "running")
        await queue.start()
        await asyncio.to_thread(store.writing.wait, 20)
        await queue.cancel(first)
        store.let_go.set()
        await asyncio.wait_for(queue.finished(second), 20)
        await queue.stop()
        return [job.status for job in jobs]

    assert asyncio.run(run()) == ["cancelled", "done"]


def test_a_job_that_is_done_stays_so_when_it_is_cancelled(settings: ServeSettings, store: SlowStore) -> None:
    async def run() -> Job:
        queue = Dispatcher(settings, store)
        await queue.start()
        (job,) = jobs_of(1)
        store.result_path(job).write_bytes(b"made")
        await queue.accept(job, io.BytesIO(), queue.reserve())
        await asyncio.wait_for(queue.finished(job), 20)
        await queue.cancel(job)
        await queue.stop()
        return job

    job = asyncio.run(run())
    assert (job.status, store.get(job.id).status) == ("done", "done")  # type: ignore[union-attr]
    assert store.result_path(job).read_bytes() == b"made"


def test_a_job_that_is_cancelled_stays_so_when_it_is_done(
    settings: ServeSettings, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WorkerHandle", LateWorker)

    async def run() -> Job:
        queue = Dispatcher(settings, store)
        await queue.start()
        (job,) = jobs_of(1)
        await queue.accept(job, io.BytesIO(), queue.reserve())
        async for state in queue.watch(job):
            if state.status == "running":
                break
        await queue.cancel(job)
        while queue.running:
            await asyncio.sleep(0.01)
        await queue.stop()
        return job

    job = asyncio.run(run())
    assert (job.status, job.output, store.get(job.id).status) == ("cancelled", None, "cancelled")  # type: ignore[union-attr]


def test_what_is_told_of_a_job_can_be_read_back(store: SlowStore) -> None:
    (job,) = jobs_of(1)
    store.add(job, io.BytesIO())
    views = [job.view(3)]
    job.status, job.started, job.share = "running", jobs.now(), 0.3333
    views.append(job.view(None))
    job.status, job.finished, job.expires, job.step = "done", jobs.now(), jobs.now() + 3600, 1
    job.output, job.tags = {"width": 32, "height": 32, "bytes": 99}, ["sky", "naïve\n"]
    store.save(job)
    views.append(job.view(None))
    assert [view.progress for view in views] == [0, 0.3333, 1]
    for view in views:
        assert JobView.model_validate_json(view.model_dump_json()) == view
    assert store.get(job.id).view(None) == views[-1]  # type: ignore[union-attr]


def test_who_asks_for_a_job_while_it_ends_hears_of_its_end(settings: ServeSettings, store: SlowStore) -> None:
    async def run() -> str:
        queue = Dispatcher(settings, store)
        (job,) = jobs_of(1)
        await queue.accept(job, io.BytesIO(), queue.reserve())
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


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """The table, by another program."""
    with closing(sqlite3.connect(data / "jobs.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def written(store: JobStore, job: Job, status: str) -> None:
    while (found := store.get(job.id)) is None or found.status != status:
        await asyncio.sleep(0.02)


def test_end_that_cannot_be_written_is_told_and_written_later(
    settings: ServeSettings, store: SlowStore
) -> None:
    async def run() -> tuple[str, str]:
        queue = Dispatcher(settings, store)
        (job,) = jobs_of(1)
        store.add(job, io.BytesIO())
        with locked(settings.data):
            await queue.start()
            await asyncio.wait_for(queue.finished(await queue.find(job.id, "")), 20)
            told = (await queue.find(job.id, "")).status
            assert store.get(job.id).status == "queued"  # type: ignore[union-attr]
        await asyncio.wait_for(written(store, job, "done"), 20)
        found = await queue.find(job.id, "")
        await queue.stop()
        return told, found.status

    assert asyncio.run(run()) == ("done", "done")


def test_end_that_is_not_written_yet_is_written_when_the_server_stops(
    settings: ServeSettings, store: SlowStore
) -> None:
    async def run() -> Job:
        queue = Dispatcher(settings, store)
        (job,) = jobs_of(1)
        await queue.accept(job, io.BytesIO(), queue.reserve())
        with locked(settings.data):
            await queue.cancel(job)
        await queue.stop()
        return job

    job = asyncio.run(run())
    assert store.get(job.id).status == "cancelled"  # type: ignore[union-attr]
    assert not store.input_path(job).exists()
