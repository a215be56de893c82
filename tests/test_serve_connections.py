"""Clients of `linearsr serve` that say nothing, half of something, or listen by the hundred."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from linearsr.serving import connections
from linearsr.serving.connections import Connection
from linearsr.serving.job_queue import JobQueue
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem
from linearsr.serving.schemas import JobView
from linearsr.serving.settings import ServeSettings
from linearsr.serving.streams import Streams


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connections, "_REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(Connection, "limit", 3)
    server = uvicorn.Server(uvicorn.Config(hello, port=0, http=Connection, lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def answer_to(port: int, sent: bytes) -> bytes:
    """All that comes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as connection:
        connection.sendall(sent)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_connections_without_a_request_are_closed(port: int) -> None:
    whole, half = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert answer_to(port, b"") == b""
    assert answer_to(port, half) == b""
    assert answer_to(port, whole + half).endswith(b"hi")


def test_connections_beyond_the_most_are_refused_at_once(port: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert answer_to(port, b"").startswith(b"HTTP/1.1 503 ")
    assert answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").endswith(b"hi")


class Changes:
    """A dispatcher whose job changes while it is watched."""

    closing = False

    async def watch(self, job: Job) -> Any:
        while job.live:
            yield job
            await asyncio.sleep(0.01)
        yield job

    queue = JobQueue(ServeSettings(Path()))


def test_watchers_of_a_job_share_one_view_of_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    view = Job.view

    def counted(job: Job, position: int | None) -> JobView:
        made.append(job.step)
        return view(job, position)

    monkeypatch.setattr(Job, "view", counted)
    job = Job("upscale", "", 8, 8, 5, {"format": "png"}, status="running")
    all_streams = Streams(Changes(), 1000)  # type: ignore[arg-type]

    async def watch() -> str:
        kinds = [event.event async for event in all_streams.follow(job)]
        return str(kinds[-1])

    async def run() -> list[str]:
        watching = [asyncio.create_task(watch()) for _ in range(200)]
        for job.step in range(5):
            await asyncio.sleep(0.05)
        job.status = "done"
        return await asyncio.gather(*watching)

    assert set(asyncio.run(run())) == {"done"}
    assert len(made) <= 6


def test_a_client_has_so_many_streams_and_no_more() -> None:
    all_streams = Streams(Changes(), 2)  # type: ignore[arg-type]
    with all_streams.opened("a"):
        with (
            all_streams.opened("a"),
            pytest.raises(Problem, match="2 event streams"),
            all_streams.opened("a"),
        ):
            pass
        with all_streams.opened("b"), all_streams.opened("a"):
            pass
