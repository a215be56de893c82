"""By which names `linearsr serve` is asked, and what it takes in before it knows what it is."""

import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from linearsr.serving.problems import Problem
from linearsr.serving.server import _allowed_hosts
from linearsr.serving.settings import LOOPBACK_HOSTS, MIB, ServeSettings, check_host, check_origin
from linearsr.serving.uploads import read_header
from serve_tools import image, problem, refused, send, serving
from web_tools import web_server


def test_pages_that_lead_their_own_name_here_are_refused(served_model: Any, tmp_path: Any) -> None:
    with serving(served_model, tmp_path, allowed_hosts=LOOPBACK_HOSTS | {"sr.example.org"}) as client:
        for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "[::1]", "SR.example.org.", "localhost."):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example:8000", "localhost:80:evil", "[::2]", "", "::1"):
            for address in ("/", "/healthz", "/v1/models", "/metrics"):
                problem(client.get(address, headers={"Host": host}), 403, "forbidden")
        same_origin = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
        assert "--allowed-host" in problem(client.post("/v1/upscale", headers=same_origin), 403, "forbidden")


@pytest.mark.parametrize(
    ("address", "named", "allowed"),
    [
        ("127.0.0.1", set(), LOOPBACK_HOSTS),
        ("127.0.0.2", {"a.example"}, LOOPBACK_HOSTS | {"127.0.0.2", "a.example"}),
        ("0.0.0.0", set(), set()),
        ("0.0.0.0", {"a.example"}, LOOPBACK_HOSTS | {"a.example"}),
    ],
)
def test_names_by_the_address_that_is_listened_at(address: str, named: set[str], allowed: set[str]) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        assert _allowed_hosts(frozenset(named), listener) == allowed


def test_a_result_may_have_16_times_the_pixels(tmp_path: Path) -> None:
    settings = ServeSettings(tmp_path, max_pixels=10_000)
    assert read_header(BytesIO(image(100, 100)), settings, 4) == (100, 100, "png")
    with pytest.raises(Problem, match=r"0.25 megapixels exceed the limit of 0.16; choose a smaller scale"):
        read_header(BytesIO(image(100, 100)), settings, 5)


def begin_upload(port: int, sent: bytes) -> socket.socket:
    """An upload of a million bytes of which only the first are sent."""
    head = "POST /v1/upscale HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode() + sent)
    return connection


def test_uploads_have_a_place_before_they_are_whole(served_model: Path, tmp_path: Path) -> None:
    limits = {"max_queue": 2, "max_bytes": MIB, "max_upload_bytes": MIB, "stall_seconds": 1.5}
    with web_server(tmp_path, served_model, **limits) as address, httpx.Client(timeout=20) as client:
        port = httpx.URL(address).port
        client.base_url = f"http://127.0.0.1:{port}"
        with begin_upload(port, b"") as first, begin_upload(port, b"") as second:
            time.sleep(0.3)
            assert "2 jobs are waiting" in problem(send(client), 429, "busy")
            for stalled in (first, second):
                assert stalled.recv(1000).startswith(b"HTTP/1.1 408 ")
        part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + b"a" * 900_000
        with begin_upload(port, part):
            time.sleep(0.3)
            refused = send(client, b"a" * 300_000)
            assert "1 MiB are being sent" in problem(refused, 503, "busy")
            assert refused.headers["retry-after"]
        time.sleep(0.3)
        assert send(client, wait="true").status_code == 200


def test_origins_are_as_browsers_write_them() -> None:
    assert check_origin("HTTPS://Friend.example:443/") == "https://friend.example"
    assert check_origin("http://[::1]:5173") == "http://[::1]:5173"
    assert check_host("2001:db8::1") == "[2001:db8::1]"


@pytest.mark.parametrize(
    "origin",
    [
        "*", "null", "friend.example", "https://", "https://*.friend.example", "https://a.example/page",
        "https://me@a.example", "ftp://a.example", "https://a.example:port", "https://a.example,https://b.example",
    ],
)  # fmt: skip
def test_origins_that_are_none(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        check_origin(origin)


def test_wrong_names_are_told_before_the_model_is_loaded(tmp_path: Any) -> None:
    place = ("--data", tmp_path, "--model", tmp_path / "nothing")
    assert refused(*place, "--cors-origin", "friend.example").count("--cors-origin") == 1
    for host in ("https://a.example", "a.example:80", "*", ""):
        assert "--allowed-host" in refused(*place, "--allowed-host", host)
