"""A served model of a few thousand weights, and what its clients do."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from commands import COMMAND, process
from linearsr.serving.api import create_app
from linearsr.serving.settings import ServeSettings

ENDLESS = {"steps": 50_000, "wait": "false"}
"""A job that does not end by itself."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@contextmanager
def serving(model: Path, data: Path, **settings: Any) -> Iterator[TestClient]:
    made = ServeSettings(data, str(model), ("cpu",), **{"max_steps": 2_000_000, **settings})
    with TestClient(create_app(made)) as client:
        yield client


@contextmanager
def started(
    model: Path, data: Path, *options: object
) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server in a process of its own, and a client of it."""
    words = ("serve", "--port", 0, "--data", data, "--model", model, "--device", "cpu", *options)
    command = [*COMMAND, *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "loading the model\n"
        line = process.stderr.readline()
        try:
            assert line.startswith("LinearSR is at "), line
            with httpx.Client(base_url=line.split()[3], timeout=60) as client:
                yield process, client
        finally:
            process.kill()


def refused(*options: object, **variables: str) -> str:
    """The one line of a server that does not start."""
    ended = process("serve", *options, env=variables)
    assert ended.returncode == 2
    *before, line = ended.stderr.splitlines()
    assert before == ["loading the model"] * ("no such folder" in line)
    return line


def image(width: int = 12, height: int = 10, format: str = "PNG", seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def send(client: Any, data: bytes | None = None, name: str = "photo.png", **fields: Any) -> Any:
    upload = image() if data is None else data
    return client.post("/v1/upscale", files={"image": (name, upload)}, data=fields)


def wait_for(client: Any, job: dict[str, Any], *statuses: str, seconds: float = 150) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = client.get(f"/v1/jobs/{job['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        if state["status"] in statuses and (state["status"] != "running" or state["step"]):
            return state
        time.sleep(0.02)
    raise AssertionError(f"still {state}")


def wait_until(condition: Callable[[], Any], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def problem(answer: Any, status: int, code: str) -> str:
    """The one line that an answer says is wrong."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message"]
    assert body["error"]["code"] == code
    message: str = body["error"]["message"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    assert "/tmp" not in message
    return message


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and data of each server-sent event."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n") if not block.startswith(":")]
    return [(head.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for head, data in blocks]
