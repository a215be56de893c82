"""Load `linearsr serve` with twice what it can do, kill it three times, and count what becomes of requests.

    python benchmarks/soak.py --minutes 30 --json soak.json

Clients arrive twice as fast as jobs finish. Most submit a job and follow it to its end, some wait for the
image, some cancel, some go away, some send rubbish. In the first half the server is killed (SIGKILL) and
restarted three times; over the last 40 % of the time the growth of its memory is measured. Linux only: memory
is read from /proc.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from served import Server

KILLS = (1 / 6, 2 / 6, 3 / 6)
KINDS = {"follow": 70, "wait": 12, "cancel": 6, "leave": 6, "rubbish": 6}
LIVE = ("queued", "running")


class Soak:
    """The clients and what they have seen."""

    def __init__(self, server: Server, client: httpx.AsyncClient, seconds: float, rng: random.Random) -> None:
        self.server, self.client, self.rng = server, client, rng
        self.begun = time.monotonic()
        self.ends = self.begun + seconds
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.job_seconds: deque[float] = deque([1.0], maxlen=30)
        self.health: list[float] = []
        self.lateness: list[float] = []
        self.memory: list[tuple[float, dict[str, float]]] = []
        self.results: dict[str, str] = {}
        self.unseen: set[str] = set()
        self.clients: set[asyncio.Task[None]] = set()
        self.images = [picture(size, seed) for seed, size in enumerate((12, 16, 20, 24))]

    async def run(self) -> None:
        watchers = [asyncio.create_task(watch) for watch in (self.probe(), self.weigh())]
        kills = asyncio.create_task(self.kill_and_restart())
        while time.monotonic() < self.ends:
            self.send_in(self.rng.choices(list(KINDS), list(KINDS.values()))[0])
            await asyncio.sleep(statistics.mean(self.job_seconds) / 2)
        await kills
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*self.clients)
        await self.look_for_unseen()

    def send_in(self, kind: str) -> None:
        task = asyncio.create_task(self.visit(kind))
        self.clients.add(task)
        task.add_done_callback(self.clients.discard)

    async def visit(self, kind: str) -> None:
        """Run one client to its end, and count or record how it went."""
        starts, was_up = self.server.starts, self.server.up
        self.counts["sent"] += 1
        try:
            await getattr(self, kind)()
        except httpx.TransportError as error:
            if was_up and self.server.up and starts == self.server.starts:
                self.failures.append(f"{kind}: {type(error).__name__}: {error}")
            else:
                self.counts["sent while it was down or cut off"] += 1
        except Exception as error:
            self.failures.append(f"{kind}: {type(error).__name__}: {error}")

    async def post(self, data: bytes, **fields: str) -> httpx.Response:
        answer = await self.client.post("/v1/upscale", files={"image": ("photo.png", data)}, data=fields)
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            self.counts["refused (429)"] += 1
        elif answer.status_code >= 500:
            raise AssertionError(f"status {answer.status_code}: {answer.text}")
        return answer

    async def follow(self) -> None:
        """Submit a job, poll it until it finishes, over all restarts, and fetch the image."""
        number, seed = self.rng.randrange(len(self.images)), self.rng.randrange(4)
        answer = await self.post(self.images[number], wait="false", seed=str(seed))
        if answer.status_code != 202:
            return
        self.counts["accepted"] += 1
        self.unseen.add(answer.json()["id"])
        job = await self.ended(answer.json())
        if job["status"] != "done":
            self.failures.append(f"an accepted job ended as {job['status']}: {job['error']}")
            return
        self.check(number, seed, (await self.patiently("GET", f"/v1/jobs/{job['id']}/result")).content)
        self.unseen.discard(job["id"])
        self.counts["accepted and completed"] += 1

    async def look_for_unseen(self) -> None:
        """Look up accepted jobs whose clients were cut off."""
        for job_id in self.unseen:
            answer = await self.client.get(f"/v1/jobs/{job_id}")
            if answer.status_code == 200 and answer.json()["status"] == "done":
                self.counts["accepted and completed"] += 1
            else:
                self.failures.append(f"an accepted job is lost: {answer.text}")

    async def wait(self) -> None:
        answer = await self.post(self.images[0], wait="true", seed="0")
        if answer.status_code != 429:
            assert answer.status_code == 200, answer.text
            self.check(0, 0, answer.content)
            self.counts["waited and got the image"] += 1

    async def cancel(self) -> None:
        answer = await self.post(self.images[-1], wait="false")
        if answer.status_code == 202:
            await asyncio.sleep(self.rng.random() * 3)
            deleted = await self.patiently("DELETE", f"/v1/jobs/{answer.json()['id']}")
            # a restart in between may already have deleted it
            assert deleted.status_code in (204, 404)
            self.counts["cancelled"] += 1

    async def leave(self) -> None:
        with contextlib.suppress(httpx.ReadTimeout):
            fields = {"files": {"image": self.images[-1]}, "data": {"wait": "true"}}
            answer = await self.client.post("/v1/upscale", timeout=httpx.Timeout(60, read=0.3), **fields)
            assert answer.status_code in (200, 429), answer.text
        self.counts["went away"] += 1

    async def rubbish(self) -> None:
        data = self.images[0][: self.rng.randrange(len(self.images[0]) // 2)]
        answer = await self.post(data, scale=self.rng.choice(["4", "-1", "x"]), wait="true")
        assert answer.status_code in (422, 429), answer.text
        self.counts["rubbish refused"] += answer.status_code == 422

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        while job["status"] in LIVE:
            await asyncio.sleep(1)
            answer = await self.patiently("GET", f"/v1/jobs/{job['id']}")
            assert answer.status_code == 200, f"lost: {answer.text}"
            job = answer.json()
        if job["finished"] and job["started"]:
            started, finished = (datetime.fromisoformat(job[name]) for name in ("started", "finished"))
            self.job_seconds.append(max(0.05, (finished - started).total_seconds()))
        return job

    async def patiently(self, method: str, address: str) -> httpx.Response:
        """Send a request, and repeat it while the server is down."""
        while True:
            starts, was_up = self.server.starts, self.server.up
            try:
                return await self.client.request(method, address)
            except httpx.TransportError:
                if was_up and self.server.up and starts == self.server.starts:
                    raise
                await asyncio.sleep(0.5)

    def check(self, number: int, seed: int, data: bytes) -> None:
        """Check that the same image and seed give the same bytes, before and after a kill."""
        with Image.open(BytesIO(data)) as image:
            image.load()
        key, digest = f"{number} {seed}", hashlib.sha256(data).hexdigest()
        assert self.results.setdefault(key, digest) == digest, "other bytes for the same image and seed"

    async def probe(self) -> None:
        """Record the time of /healthz, and the lateness of a local timer, which shows the load of the CPU."""
        while True:
            if self.server.up:
                starts, begun = self.server.starts, time.perf_counter()
                with contextlib.suppress(httpx.TransportError):
                    await self.client.get("/healthz")
                    if self.server.up and starts == self.server.starts:
                        self.health.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            await asyncio.sleep(0.5)
            self.lateness.append(time.perf_counter() - begun - 0.5)

    async def weigh(self) -> None:
        while True:
            if self.server.up:
                with contextlib.suppress(OSError):
                    self.memory.append((time.monotonic() - self.begun, self.server.memory()))
            await asyncio.sleep(5)

    async def kill_and_restart(self) -> None:
        for share in KILLS:
            await asyncio.sleep(max(0, self.begun + share * (self.ends - self.begun) - time.monotonic()))
            self.counts["kills"] += 1
            self.note(await self.server.kill())
            await self.server.start()

    def note(self, said: str) -> None:
        if said:
            self.failures.append(f"the server said: {said[-300:]}")

    def report(self) -> dict[str, Any]:
        later = [(when, sizes) for when, sizes in self.memory if when > (self.ends - self.begun) * 0.6]
        return {
            "minutes": round((time.monotonic() - self.begun) / 60, 1),
            "seconds a job": round(statistics.mean(self.job_seconds), 2),
            **self.counts,
            "failures": len(self.failures),
            "first failures": self.failures[:5],
            "healthz, ms": percentiles(self.health),
            "lateness of a timer, ms": percentiles(self.lateness),
            "memory": {
                part: growth([(when, sizes[part]) for when, sizes in later]) for part in ("server", "worker")
            },
        }


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the percentiles and the maximum of `values` (seconds) in milliseconds."""
    ordered = sorted(1000 * value for value in values)
    shares = {f"p{p}": round(ordered[len(ordered) * p // 100], 1) for p in (50, 95, 99)}
    return {"count": len(ordered), **shares, "longest": round(ordered[-1], 1)}


def growth(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Return resident MiB of (seconds, MiB) samples: first, last, and the slope of a line through all."""
    times, sizes = np.array(samples).T
    tenth = max(1, len(sizes) // 10)
    return {
        "first MiB": round(float(np.median(sizes[:tenth])), 1),
        "last MiB": round(float(np.median(sizes[-tenth:])), 1),
        "MiB a minute": round(60 * float(np.polyfit(times, sizes, 1)[0]), 3),
    }


def picture(side: int, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def soak(minutes: float, port: int, queue: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as data:
        server = Server(Path(data), port, queue)
        await server.start()
        # no kept connections: the server might close one just as a request goes out
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=300, limits=limits
        ) as client:
            run = Soak(server, client, 60 * minutes, random.Random(seed))
            try:
                await run.run()
            finally:
                run.note(await server.kill())
        return run.report()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--queue", type=int, default=16, help="jobs that may wait")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the report there")
    asked = parser.parse_args()
    report = asyncio.run(soak(asked.minutes, asked.port, asked.queue, asked.seed))
    text = json.dumps(report, indent=2)
    Console().print_json(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(1 if report["failures"] else 0)


if __name__ == "__main__":
    main()
