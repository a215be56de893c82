"""A worker process as the server sees it: it is started, given tasks, stopped in the middle of one, and may die."""

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
    """The process ended in the middle of something."""


class UnusableModel(ValueError):
    """The model cannot be loaded; the message says why."""


class WorkerHandle:
    """One worker process, and the next one where that has died; it loads a model on a device."""

    def __init__(self, model: str | None, device: str, dtype: str) -> None:
        self.device = device
        self._arguments = json.dumps([model, device, dtype])
        self._process: Process | None = None
        self._ready = False
        self.starts = 0
        """How many processes there have been."""
        self.jobs = 0
        """How many they have ended."""

    @property
    def ready(self) -> bool:
        """Whether a process is there, with its model loaded."""
        return self._ready and self._process is not None and self._process.returncode is None

    async def start(self) -> Message:
        """Start a process; answers with the model's card. Raises UnusableModel if it cannot be loaded."""
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
        """Have a task done: what is told of it, up to the event that ends it. Raises WorkerDied before that."""
        await self._send(task)
        event = "step"
        while event == "step":
            answer = await self._receive()
            if answer.get("id") == task["id"]:
                event = answer["event"]
                yield answer

    async def cancel(self, job_id: str) -> None:
        """Ask for the task to be dropped at its next step."""
        with contextlib.suppress(WorkerDied):
            await self._send({"cancel": job_id})

    async def stop(self) -> None:
        """End the process, whatever it is doing."""
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
