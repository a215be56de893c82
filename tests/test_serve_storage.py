"""A disk that is full and a table that is locked while `linearsr serve` works: no job is left behind."""

import asyncio
import io
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from linearsr.serving import dispatcher as module
from linearsr.serving import endings, jobs
from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.jobs import Job, JobStore
from linearsr.serving.metrics import Metrics
from linearsr.serving.settings import ServeSettings
from test_dispatcher import Worker, jobs_of


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeSettings:
    monkeypatch.setattr(module, "WorkerHandle", Worker)
    monkeypatch.setattr(endings, "_FIRST_REWRITE", 0.05)
    monkeypatch.setattr(jobs, "_BUSY_SECONDS", 0.1)
    return ServeSettings(tmp_path)


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


def test_end_that_cannot_be_written_is_told_and_written_later(settings: ServeSettings) -> None:
    store = JobStore(settings.data)

    async def run() -> tuple[str, str]:
        queue = Dispatcher(settings, store, Metrics())
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
    store.close()


def test_end_that_is_not_written_yet_is_written_when_the_server_stops(settings: ServeSettings) -> None:
    store = JobStore(settings.data)

    async def run() -> Job:
        queue = Dispatcher(settings, store, Metrics())
        (job,) = jobs_of(1)
        await queue.accept(job, io.BytesIO())
        with locked(settings.data):
            await queue.cancel(job)
        await queue.stop()
        return job

    job = asyncio.run(run())
    assert store.get(job.id).status == "cancelled"  # type: ignore[union-attr]
    assert not store.input_path(job).exists()
    store.close()
