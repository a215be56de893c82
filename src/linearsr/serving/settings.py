"""Settings of a server, and the syntax of origins and host names among them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

MIB = 2**20
DISK_FULL = "the server's disk is full: try again later"

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class ServeSettings:
    """The options of `linearsr serve` (its help explains them), and values that only tests change.

    Sizes are in bytes, times in seconds.
    """

    data: Path
    model: str | None = None
    devices: tuple[str, ...] = ("auto",)
    dtype: str = "auto"
    api_keys: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    """Host names, without port, by which clients may address the server; empty allows any."""
    webhook_origins: frozenset[str] = frozenset()
    webhook_secret: str = ""
    access_log: Literal["off", "text", "json"] = "off"
    max_queue: int = 32
    max_streams: int = 1000
    max_bytes: int = 64 * MIB
    """Most bytes in the body of a request."""
    max_upload_bytes: int = 256 * MIB
    """Most bytes of all uploads in progress together."""
    max_storage: float = math.inf
    max_pixels: int = 64_000_000
    max_steps: int = 100
    max_seconds: float = 600
    """Time allowed to compute each megapixel of an image."""
    upload_seconds: float = 60
    """Time allowed for a request's body to arrive."""
    stall_seconds: float = 10
    """Time allowed without any part of it arriving."""
    answer_seconds: float = 5
    """How long an upscale request waits for its image if it has no `wait` field."""
    keep_seconds: float = 3600

    @property
    def max_output_pixels(self) -> int:
        """Most pixels of a result."""
        return 16 * self.max_pixels

    def seconds_for(self, pixels: int) -> float:
        """Return the time allowed for an image; one below a megapixel has as long as a megapixel."""
        return self.max_seconds * max(1, pixels / 1e6)


def check_origin(origin: str) -> str:
    """Normalise an origin to the form that browsers send.

    Raises ValueError: it is not an origin, for example because it has a path, a wildcard or no scheme.
    """
    wrong = ValueError(
        f"{origin!r} is not an origin: write it as https://example.org or http://example.org:8080"
    )
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
    """Normalise a host name as `host_name` does. Raises ValueError: it has a scheme, a port or a path."""
    name = host.strip().lower().rstrip(".")
    if name.count(":") > 1 and not name.startswith("["):
        name = f"[{name}]"
    if not name or host_name(name) != name or not set(name).isdisjoint("*/, @\\"):
        raise ValueError(f"{host!r} is not a host name: write it as sr.example.org, without scheme and port")
    return name


def host_name(header: str) -> str:
    """Return the name in a Host header, in lower case and without port."""
    name, colon, port = header.strip().lower().rpartition(":")
    if not colon or (not port.isdecimal() and port):
        name = header.strip().lower()
    return name.rstrip(".")
