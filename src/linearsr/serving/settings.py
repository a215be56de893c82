"""What a server is told when it starts."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

MIB = 2**20
DISK_FULL = "the server's disk is full: come back later"

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class ServeSettings:
    """The options of `linearsr serve`, which explains them, and what tests change; sizes in bytes, times in seconds."""

    data: Path
    model: str | None = None
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    api_keys: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    """Names without port; none: whatever the name."""
    webhook_origins: frozenset[str] = frozenset()
    webhook_secret: str = ""
    access_log: Literal["off", "text", "json"] = "off"
    max_queue: int = 32
    max_streams: int = 1000
    max_bytes: int = 64 * MIB
    """Of a request's body."""
    max_upload_bytes: int = 256 * MIB
    """Of all uploads that are on their way together."""
    max_storage: float = math.inf
    max_pixels: int = 64_000_000
    max_steps: int = 100
    max_seconds: float = 600
    """That a megapixel of an image may take to be computed."""
    upload_seconds: float = 60
    """That a request's body may take to arrive."""
    stall_seconds: float = 10
    """That may pass without any of it arriving."""
    answer_seconds: float = 5
    """How long an upscale request waits for its image where it says nothing about waiting."""
    keep_seconds: float = 3600

    @property
    def max_output_pixels(self) -> int:
        """Of a result."""
        return 16 * self.max_pixels

    def seconds_for(self, pixels: int) -> float:
        """That an image may take; one that has less than a megapixel may take as long."""
        return self.max_seconds * max(1, pixels / 1e6)


def check_origin(origin: str) -> str:
    """An origin as browsers write it. Raises ValueError if it is none, as it has a path, a wildcard or no scheme."""
    wrong = ValueError(f"{origin!r} is no origin: write it as https://example.org or http://example.org:8080")
    try:
        parts = urlsplit(origin.strip().lower())
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise wrong from None
    if not host or parts.scheme not in _DEFAULT_PORTS or not set(parts.netloc).isdisjoint("*@, \\"):
        raise wrong
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{origin!r} has more than an origin: write {parts.scheme}://{parts.netloc}")
    return f"{parts.scheme}://{parts.netloc.removesuffix(_DEFAULT_PORTS[parts.scheme])}"


def check_host(host: str) -> str:
    """A name that the server is asked by, as in requests, without port. Raises ValueError if it has more than that."""
    name = host.strip().lower().rstrip(".")
    if name.count(":") > 1 and not name.startswith("["):
        name = f"[{name}]"
    if not name or host_name(name) != name or not set(name).isdisjoint("*/, @\\"):
        raise ValueError(
            f"{host!r} is no name of a host: write it as sr.example.org, without scheme and port"
        )
    return name


def host_name(header: str) -> str:
    """The name in a Host header, without port."""
    name, colon, port = header.strip().lower().rpartition(":")
    if not colon or (not port.isdecimal() and port):
        name = header.strip().lower()
    return name.rstrip(".")
