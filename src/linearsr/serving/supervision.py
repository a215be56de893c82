"""The server's side of a worker process: start it, give it tasks, stop it at any time, notice its death."""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator

from linearsr.serving.worker import Message

_LONGEST_LINE = 2**22


class WorkerDied(Exception):
    """The worker process ended while it was needed."""


class UnusableModel(ValueError):
    """The model cannot be loaded; the message says why."""


class WorkerHandle:
    """A worker process with a model on a device. After it died, `start` starts another one."""

    def __init__(self, model: str | None, device: str, dtype: str) -> None:
        self.device = device
        self._arguments = json.dumps([model, device, dtype])
        self._process: Process | None = None
        self._ready = False
        self.starts = 0
        """How many processes were started."""
        self.jobs = 0
        """How many jobs have ended, in all its processes."""

    @property
    def ready(self) -> bool:
        """Whether the process runs and has its model loaded."""
        return self._ready and self._process is not None and self._process.returncode is None

    async def start(self) -> Message:
        """Start a process, and return the model's card. Raises UnusableModel: the model cannot be loaded."""
        command = (sys.executable, "-m", "linearsr.serving.worker", self._arguments)
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        self._ready = False
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE, env=environment
        )
        self.starts += 1
        try:
            answer = await self._receive()
        except WorkerDied as death:
            raise UnusableModel(f"a worker process ended while it loaded the model: {death}") from None
        if answer["event"] == "unusable":
            await self._process.wait()
            raise UnusableModel(answer["message"])
        self._ready = True
        card: Message = answer["card"]
        return card

    async def run(self, task: Message) -> AsyncIterator[Message]:
        """Give the worker a task; yield its events up to the one that ends it. Raises WorkerDied: it died."""
        await self._send(task)
        event = "step"
        while event == "step":
            answer = await self._receive()
            if answer.get("id") == task["id"]:
                event = answer["event"]
                yield answer

    async def cancel(self, job_id: str) -> None:
        """Ask the worker to stop a task at its next step."""
        with contextlib.suppress(WorkerDied):
            await self._send({"cancel": job_id})

    async def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self._ready = False
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _send(self, message: Message) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise WorkerDied from error

    async def _receive(self) -> Message:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            await self._process.wait()
            raise WorkerDied(f"exit status {self._process.returncode}")
        message: Message = json.loads(line)
        return message
