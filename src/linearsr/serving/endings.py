"""The ends of jobs: written down, told to webhooks, and forgotten when their time is over."""

import asyncio
import logging
from asyncio import to_thread
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from linearsr.serving.jobs import LIVE, Job, JobStore, cause
from linearsr.serving.settings import ServeSettings
from linearsr.serving.webhooks import Webhooks

_log = logging.getLogger(__name__)
_FIRST_REWRITE, _LONGEST_REWRITE = 0.5, 10.0


class Endings:
    """What is done once jobs have ended, beside all else."""

    def __init__(self, settings: ServeSettings, store: JobStore) -> None:
        self._settings, self._store = settings, store
        self._webhooks = Webhooks(settings.webhook_secret)
        self._tasks: set[asyncio.Task[None]] = set()
        self.unwritten: dict[str, Job] = {}
        """Jobs whose end is not in the table yet."""

    async def start(self) -> None:
        """Go on with what was left over the last time."""
        self.in_background(self._expire())
        for job in await to_thread(self._store.find, Job.webhook.is_not(None), Job.status.not_in(LIVE)):
            self.in_background(self._tell(job))

    async def stop(self) -> None:
        """Write what is not written."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in list(self.unwritten.values()):
            if not await self.written(job):
                _log.error("the end of job %s could not be written: it is done again after a restart", job.id)

    async def written(self, job: Job) -> bool:
        """Write down how a job stands, if that can be done: what is in memory holds until it is."""
        try:
            await to_thread(self._store.save, job)
        except Exception as error:
            _log.warning("job %s (%s) could not be written: %s", job.id, job.status, cause(error))
            return False
        return True

    async def end(self, job: Job) -> None:
        """A job has ended."""
        self.unwritten[job.id] = job
        if await self.written(job):
            self.unwritten.pop(job.id, None)
        else:
            self.in_background(self._write(job))
        if job.webhook is not None:
            self.in_background(self._tell(job))

    async def remove(self, job: Job) -> None:
        """Forget a job."""
        await to_thread(self._store.remove, job)
        self.unwritten.pop(job.id, None)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something until the server stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, job: Job) -> None:
        """Try again and again: a full disk or a locked table is so for a while."""
        pause = _FIRST_REWRITE
        while job.id in self.unwritten:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_REWRITE)
            if job.id in self.unwritten and await self.written(job):
                self.unwritten.pop(job.id, None)

    async def _tell(self, job: Job) -> None:
        await self._webhooks.tell(job)
        job.webhook = None
        with suppress(SQLAlchemyError):  # told once more after a restart
            await to_thread(self._store.forget_webhook, job)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(60, self._settings.keep_seconds / 2))
            try:
                await to_thread(self._store.remove_expired)
            except Exception:
                _log.exception("expired jobs could not be removed")
