"""`linearsr serve` in its own process, for benchmarks that kill it and measure its memory."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

MIB = 2**20


class Server:
    """`linearsr serve` in its own process, with the same data folder and port over all restarts."""

    def __init__(self, data: Path, port: int, queue: int) -> None:
        command = [sys.executable, "-m", "linearsr.cli.app", "serve", "--port", port, "--data", data]
        # limit the pixels, so that a damaged header does not make a picture that takes minutes
        limits = ["--max-queue", str(queue), "--keep", "86400", "--max-pixels", "4000"]
        self._command = [*map(str, command), *limits]
        self.up = False
        self.starts = 0
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(*self._command, stderr=asyncio.subprocess.PIPE)
        assert self.process.stderr is not None
        _loading, line = [(await self.process.stderr.readline()).decode() for _ in range(2)]
        if not line.startswith("LinearSR is at"):
            raise SystemExit(f"the server does not start: {line}")
        self.said = asyncio.create_task(self.process.stderr.read())
        self.starts, self.up = self.starts + 1, True

    async def kill(self) -> str:
        """Kill the server with SIGKILL, and return its stderr up to then."""
        self.up = False
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        return (await self.said).decode()

    def memory(self) -> dict[str, float]:
        """Return the resident MiB of the server and its worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {"server": resident(self.process.pid), "worker": sum(map(resident, map(int, children)))}


def resident(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB
