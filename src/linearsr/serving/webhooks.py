"""Webhooks: the end of a job is sent to a server that the operator has named, and to no other."""

import asyncio
import base64
import hashlib
import hmac
import logging
import time
from urllib.parse import urlsplit

import httpx

from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem
from linearsr.serving.settings import ServeSettings, check_origin

_log = logging.getLogger(__name__)
_PAUSES = (5, 30, 120, 600)
"""Seconds between one try and the next."""
_SECONDS = 10
_MAX_CONCURRENT = 8


def check_webhook(url: str, settings: ServeSettings) -> str:
    """The address as it will be called.

    Raises Problem unless it is at an origin that the operator has named.
    """
    try:
        parts = urlsplit(url)
        origin = check_origin(f"{parts.scheme}://{parts.netloc}")
    except ValueError:
        origin = ""
    if origin not in settings.webhook_origins or not url.isascii() or not url.isprintable():
        raise Problem(422, "bad_option", "webhook: not an address at an origin that this server may call")
    # put together anew: two parsers may take one address for two hosts
    return f"{origin}/{parts.path.removeprefix('/')}{f'?{parts.query}' if parts.query else ''}"


class Webhooks:
    """Tells of ends, signed as https://www.standardwebhooks.com says."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._turn = asyncio.Semaphore(_MAX_CONCURRENT)

    async def notify(self, job: Job) -> None:
        """Call the job's webhook until it answers with a status below 300, five times at most."""
        for pause in (*_PAUSES, None):
            async with self._turn:
                said = await self._call(job)
            if said is None:
                return
            _log.warning("job %s: its webhook %s", job.id, said)
            if pause is not None:
                await asyncio.sleep(pause)

    async def _call(self, job: Job) -> str | None:
        """What went wrong."""
        assert job.webhook is not None
        body = job.view(None).model_dump_json()
        headers = {"Content-Type": "application/json", **self._signature(job.id, body)}
        try:
            # no proxy of the environment, no redirect, and nothing of the answer's body is read
            async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=_SECONDS) as client:
                request = client.build_request("POST", job.webhook, content=body, headers=headers)
                answer = await asyncio.wait_for(client.send(request, stream=True), _SECONDS)
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, asyncio.TimeoutError) as error:
            return f"cannot be reached ({type(error).__name__})"
        return None if answer.is_success else f"answered with status {answer.status_code}"

    def _signature(self, name: str, body: str) -> dict[str, str]:
        moment = str(int(time.time()))
        digest = hmac.digest(self._secret, f"{name}.{moment}.{body}".encode(), hashlib.sha256)
        signature = f"v1,{base64.b64encode(digest).decode()}"
        return {"webhook-id": name, "webhook-timestamp": moment, "webhook-signature": signature}
