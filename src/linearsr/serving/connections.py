"""Limits on connections: how many may be open, and how long each may be silent."""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_REQUEST_SECONDS = 10.0
"""Time allowed from connecting, or from the last answer, to the end of a request's headers."""
_READ_SECONDS = 60.0
"""How long a client may leave data unread."""
_MAX_FILES = 65_536
_OWN_FILES = 128
_FILES_PER_CONNECTION = 2
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


def max_connections() -> int:
    """Raise the limit of open files as far as allowed, and return for how many connections they suffice.

    Each connection may need a second file, for an upload or a result.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(_MAX_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(1, (wanted - _OWN_FILES) // _FILES_PER_CONNECTION)


class Connection(H11Protocol):
    """A connection that closes if no request comes in time, reading stops, or there are too many."""

    limit = 1000

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._request_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limit:
            transport.write(_FULL)
            transport.close()
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._request_timer = _stop(self._request_timer)
        self._read_timer = _stop(self._read_timer)

    def pause_writing(self) -> None:  # called when the client reads more slowly than we write
        super().pause_writing()
        self._read_timer = self.loop.call_later(_READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_timer = _stop(self._read_timer)

    def _wait_for_request(self) -> None:
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            self._request_timer = _stop(self._request_timer)
        elif self._request_timer is None:
            self._request_timer = self.loop.call_later(_REQUEST_SECONDS, self.timeout_keep_alive_handler)


def _stop(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """Cancel a timer, and return None in its place."""
    if timer is not None:
        timer.cancel()
    return None
