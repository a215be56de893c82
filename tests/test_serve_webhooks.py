"""The end of a job is told to a server that is named, and to no other."""

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from linearsr.serving import completion
from linearsr.serving.jobs import Job
from linearsr.serving.problems import Problem
from linearsr.serving.settings import ServeSettings
from linearsr.serving.uploads import check_webhook
from serve_tools import problem, refused, send, serving, wait_for, wait_until


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, Any, bytes]]]]:
    """A server that takes webhooks, but the first time leads elsewhere."""
    told: list[tuple[str, Any, bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append((self.path, self.headers, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(302 if len(told) == 1 else 204)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


def test_end_is_told_to_a_server_that_is_named(
    served_model: Path, tmp_path: Path, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, told = receiver
    monkeypatch.setattr(completion, "_PAUSES", (0.1, 60))
    settings = {"webhook_origins": frozenset({origin}), "webhook_secret": "s3cret"}
    with serving(served_model, tmp_path, **settings) as client:
        problem(send(client, webhook=f"{origin}1/x"), 422, "bad_option")
        job = wait_for(client, send(client, wait="false", webhook=f"{origin}/done?a=b").json(), "done")
        wait_until(lambda: len(told) == 2)
        wait_until(lambda: not client.app.state.dispatcher.store.find(Job.webhook.is_not(None)))
    assert [path for path, _, _ in told] == ["/done?a=b"] * 2
    _, headers, body = told[1]
    assert json.loads(body) == job
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(b"s3cret", signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert headers["webhook-id"] == job["id"]


def test_end_that_nobody_took_is_told_after_a_restart(
    served_model: Path, tmp_path: Path, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, told = receiver
    settings = {"webhook_origins": frozenset({origin}), "webhook_secret": "s3cret"}
    with serving(served_model, tmp_path, **settings) as client:
        send(client, wait="true", webhook=origin)
        wait_until(lambda: len(told) == 1)
    with serving(served_model, tmp_path, **settings):
        wait_until(lambda: len(told) == 2)
    assert told[1][0] == "/"


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example/x", "http://hooks.example/x", "https://hooks.example:8443/", "https://hooks.example@evil.example/",
        "https://evil.example\\@hooks.example/", "https://hooks.example.evil.example/", "//hooks.example/x", "x",
        "https://hooks.example\n.evil.example/", "file:///etc/passwd", "https://[::1", "https://hooks.example/\u202e",
    ],
)  # fmt: skip
def test_no_other_server_is_called(address: str) -> None:
    settings = ServeSettings(Path(), webhook_origins=frozenset({"https://hooks.example"}))
    with pytest.raises(Problem, match="webhook"):
        check_webhook(address, settings)
    assert check_webhook("HTTPS://hooks.example:443//x?y", settings) == "https://hooks.example//x?y"


def test_webhooks_need_a_secret(tmp_path: Path) -> None:
    assert "LINEARSR_WEBHOOK_SECRET" in refused(
        "--data", tmp_path, "--webhook-origin", "https://hooks.example"
    )
