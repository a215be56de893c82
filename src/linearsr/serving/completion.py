"""The completion of jobs: their end is stored, webhooks are called, and they are removed when they expire."""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from asyncio import to_thread
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError

from linearsr.serving.jobs import LIVE, Job, JobStore, cause
from linearsr.serving.settings import ServeSettings

_log = logging.getLogger(__name__)
_FIRST_RETRY, _MAX_RETRY = 0.5, 10.0
"""Seconds before the first retry to store an end, and the most before a later one."""
_PAUSES = (5, 30, 120, 600)
"""Seconds between the calls of a webhook."""
_CALL_SECONDS, _MAX_CALLS = 10, 8
"""Seconds that a call may take, and how many calls may be open at once."""


class Completion:
    """The component that completes jobs; slow work runs in the background."""

    def __init__(self, settings: ServeSettings, store: JobStore) -> None:
        self._keep_seconds, self._store = settings.keep_seconds, store
        self._secret = settings.webhook_secret.encode()
        self._turn = asyncio.Semaphore(_MAX_CALLS)
        self._tasks: set[asyncio.Task[None]] = set()
        self.unwritten: dict[str, Job] = {}
        """Jobs by id whose end is not in the table yet."""

    async def start(self) -> None:
        """Begin to remove expired jobs, and call webhooks that were still due when the server stopped."""
        self.in_background(self._expire())
        for job in await to_thread(self._store.find, Job.webhook.is_not(None), Job.status.not_in(LIVE)):
            self.in_background(self._notify(job))

    async def stop(self) -> None:
        """Stop background work, and try once more to store ends that are not stored yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in list(self.unwritten.values()):
            if not await self.save(job):
                _log.error(
                    "the end of job %s could not be written: the job runs again after a restart", job.id
                )

    async def save(self, job: Job) -> bool:
        """Store the state of a job, and return whether that worked. If not, the job in memory still holds."""
        try:
            await to_thread(self._store.save, job)
        except Exception as error:
            _log.warning("job %s (%s) could not be written: %s", job.id, job.status, cause(error))
            return False
        return True

    async def end(self, job: Job) -> None:
        """Store the end of a job, now or as soon as possible, and call its webhook."""
        self.unwritten[job.id] = job
        if await self.save(job):
            self.unwritten.pop(job.id, None)
        else:
            self.in_background(self._retry(job))
        if job.webhook is not None:
            self.in_background(self._notify(job))

    async def remove(self, job: Job) -> None:
        """Remove a job."""
        await to_thread(self._store.remove, job)
        self.unwritten.pop(job.id, None)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background; it is cancelled when the server stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retry(self, job: Job) -> None:
        pause = _FIRST_RETRY
        while job.id in self.unwritten:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_RETRY)
            if job.id in self.unwritten and await self.save(job):
                self.unwritten.pop(job.id, None)

    async def _notify(self, job: Job) -> None:
        """Call a job's webhook until it answers with a status below 300, at most five times."""
        for pause in (*_PAUSES, None):
            async with self._turn:
                said = await self._call(job)
            if said is None:
                break
            _log.warning("job %s: its webhook %s", job.id, said)
            if pause is not None:
                await asyncio.sleep(pause)
        job.webhook = None
        with suppress(SQLAlchemyError):  # then it is called once more after a restart
            await to_thread(self._store.forget_webhook, job)

    async def _call(self, job: Job) -> str | None:
        """Call the webhook, and return what went wrong, or None.

        The call is signed as https://www.standardwebhooks.com specifies.
        """
        assert job.webhook is not None
        body, moment = job.view(None).model_dump_json(), str(int(time.time()))
        digest = hmac.digest(self._secret, f"{job.id}.{moment}.{body}".encode(), hashlib.sha256)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": job.id,
            "webhook-timestamp": moment,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }
        options: dict[str, Any] = {"trust_env": False, "follow_redirects": False, "timeout": _CALL_SECONDS}
        try:
            # ignore proxy settings of the environment, follow no redirect, and read none of the answer's body
            async with httpx.AsyncClient(**options) as client:
                request = client.build_request("POST", job.webhook, content=body, headers=headers)
                answer = await asyncio.wait_for(client.send(request, stream=True), _CALL_SECONDS)
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, asyncio.TimeoutError) as error:
            return f"cannot be reached ({type(error).__name__})"
        return None if answer.is_success else f"answered with status {answer.status_code}"

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(min(60, self._keep_seconds / 2))
            try:
                await to_thread(self._store.remove_expired)
            except Exception:
                _log.exception("expired jobs could not be removed")
