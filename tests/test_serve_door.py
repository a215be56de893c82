"""By which names `linearsr serve` is asked, and what it takes in before it knows what it is."""

import socket
from typing import Any

import pytest

from linearsr.serving.server import _allowed_hosts
from linearsr.serving.settings import LOOPBACK_HOSTS, check_host, check_origin
from serve_tools import problem, served_model, serving
from test_serve_endurance import refused

__all__ = ["served_model"]


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
