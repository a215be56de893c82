"""The server: it listens at an address and serves the application there."""

import asyncio
import ipaddress
import logging
import os
import socket
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import replace

import uvicorn
from filelock import FileLock, Timeout

from linearsr.serving.api import create_app
from linearsr.serving.connections import Connection, max_connections
from linearsr.serving.settings import LOOPBACK_HOSTS, ServeSettings, check_host

_SHUTDOWN_SECONDS = 5
Loading = AbstractContextManager[None]
Ready = Callable[[str], None]


def run(settings: ServeSettings, host: str, port: int, loading: Loading, on_ready: Ready) -> None:
    """Serve until a signal arrives. `loading` is entered while the model loads; `on_ready` gets the address.

    Raises ValueError: the model, the data folder or the address cannot be used.
    Raises OSError: the data folder cannot be written.
    """
    # the server reads only headers of images; what the worker warns of reaches the job's owner
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    os.umask(0o077)
    settings.data.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.data / "lock", timeout=0), _listen(host, port) as listener:
            settings = replace(settings, allowed_hosts=_allowed_hosts(settings.allowed_hosts, listener))
            asyncio.run(_serve(settings, listener, loading, on_ready))
    except Timeout:
        raise ValueError(f"another server uses {settings.data}: choose another folder with --data") from None


async def _serve(settings: ServeSettings, listener: socket.socket, loading: Loading, on_ready: Ready) -> None:
    app = create_app(settings)
    Connection.limit = max_connections()
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",  # entered below, so that errors from loading the model reach our caller
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    async with AsyncExitStack() as running:
        with loading:
            await running.enter_async_context(app.router.lifespan_context(app))
        # clients that connect before uvicorn takes requests wait, instead of being refused
        listener.listen()
        host, port = listener.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await _Server(config).serve([listener])


class _Server(uvicorn.Server):
    """A server that answers clients who wait for jobs when it shuts down. Jobs go on after a restart."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer open requests, and close."""
        self.config.app.state.dispatcher.release()  # type: ignore[union-attr]
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ValueError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from None
    return listener


def _allowed_hosts(named: frozenset[str], listener: socket.socket) -> frozenset[str]:
    """Return the host names to accept: on a loopback address its own names and those in `named`; on any other
    address those in `named` and the loopback names, or every name if `named` is empty.
    """
    address = listener.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return named | LOOPBACK_HOSTS if named else named
    return named | LOOPBACK_HOSTS | {check_host(address)}
