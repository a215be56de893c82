"""Admission of requests by host, origin, key, size and free room, with a log line and metrics for each."""

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import sys
import time
from datetime import datetime, timezone
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linearsr.serving.dispatcher import Dispatcher
from linearsr.serving.metrics import Metrics
from linearsr.serving.problems import Problem
from linearsr.serving.settings import MIB, ServeSettings, host_name

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_UPLOADS = ("/v1/upscale", "/v1/tags")


class Admission:
    """ASGI middleware that admits or refuses requests. Sets `scope["state"]["owner"]`, a hash of the key."""

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, dispatcher: Dispatcher, metrics: Metrics
    ) -> None:
        self._app, self._settings, self._dispatcher, self._metrics = app, settings, dispatcher, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit a request, or refuse it before its body is read."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun, status = time.perf_counter(), 500
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update({**_HEADERS, "X-Request-ID": name})
            await send(message)

        place: object | None = None
        try:
            state = scope.setdefault("state", {})
            state["owner"] = self._check(scope)
            if scope["method"] == "POST" and scope["path"] in _UPLOADS:
                place = state["place"] = self._dispatcher.reserve()
            await self._app(scope, self._within_limits(receive, place), answer)
        except Problem as problem:
            await problem.response()(scope, receive, answer)
        finally:
            self._dispatcher.queue.release(place)
            refused_here = scope["path"] if scope["path"] in _UPLOADS else "other"
            route = getattr(scope.get("route"), "path", refused_here)
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            seconds = time.perf_counter() - begun
            self._metrics.request_seconds.labels(route).observe(seconds)
            self._log(scope, name, status, seconds)

    def _log(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        """Write a line about the request to stderr, without keys, queries or file names."""
        if self._settings.access_log == "off":
            return
        path = scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "backslashreplace")
        record = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "client": scope["client"][0] if scope.get("client") else None,
            "owner": scope["state"].get("owner") or None,
            "method": scope["method"],
            "path": path,
            "status": status,
            "seconds": round(seconds, 4),
            "request": request,
        }
        as_json = self._settings.access_log == "json"
        line = json.dumps(record) if as_json else " ".join(str(value or "-") for value in record.values())
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def _check(self, scope: Scope) -> str:
        """Return the owner of a request. Raises Problem: it is refused."""
        headers, host = Headers(scope=scope), Headers(scope=scope).get("host", "")
        # DNS rebinding: a site that points its own name at this server would pass for our page
        if self._settings.allowed_hosts and host_name(host) not in self._settings.allowed_hosts:
            message = "this server does not answer to that name: use 127.0.0.1, or start it with --allowed-host NAME"
            raise Problem(403, "forbidden", message, {"Connection": "close"})
        # a page of another site cannot read our answers, but it could send us work
        origin = None if scope["method"] in ("GET", "HEAD", "OPTIONS") else headers.get("origin")
        known = origin is None or origin in self._settings.cors_origins
        if not known and (not host or urlsplit(origin).netloc != host):
            message = "pages of other sites may not use this server: start it with --cors-origin ORIGIN, or let the "
            raise Problem(403, "forbidden", f"{message}proxy pass the Host header on")
        owner = self._owner(headers) if scope["path"].startswith("/v1/") else ""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._settings.max_bytes:
            raise self._too_large()
        return owner

    def _owner(self, headers: Headers) -> str:
        if not self._settings.api_keys:
            return ""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # all keys are compared, so that the time taken does not tell which one was close
        matches = [hmac.compare_digest(given.encode(), key.encode()) for key in self._settings.api_keys]
        if not any(matches):
            problem = "this server does not know the key" if given else "this server needs a key"
            message = f"{problem}: send one of its own as 'Authorization: Bearer KEY'"
            raise Problem(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
        return hashlib.sha256(given.encode()).hexdigest()[:32]

    def _within_limits(self, receive: Receive, place: object | None) -> Receive:
        """Wrap `receive` so that it raises Problem for a body that is too large or too slow."""
        ends = time.monotonic() + self._settings.upload_seconds
        size, whole = 0, False

        async def limited() -> Message:
            nonlocal size, whole
            if whole:  # only the end of the connection can follow
                return await receive()
            try:
                left = min(ends - time.monotonic(), self._settings.stall_seconds)
                message = await asyncio.wait_for(receive(), max(0.001, left))
            except asyncio.TimeoutError:
                limit = f"the request took longer than {self._settings.upload_seconds:g} s to arrive"
                if time.monotonic() < ends:
                    limit = f"nothing of the request arrived for {self._settings.stall_seconds:g} s"
                raise Problem(408, "upload_too_slow", limit, {"Connection": "close"}) from None
            come = len(message.get("body", b""))
            size += come
            if size > self._settings.max_bytes:
                raise self._too_large()
            if place is not None:
                self._dispatcher.queue.grow(place, come)
            whole = not message.get("more_body", False)
            return message

        return limited

    def _too_large(self) -> Problem:
        limit = f"the request has more than the {self._settings.max_bytes / MIB:g} MiB allowed"
        return Problem(413, "too_large", f"{limit}: send a smaller image", {"Connection": "close"})
