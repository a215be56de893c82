"""`linearsr serve`: the web page and the HTTP API."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Option

from linearsr.cli.console import doing, needing, say, stop, told
from linearsr.cli.options import Model, WeightType
from linearsr.jobs.messages import failure, shown

_KEYS_VARIABLE = "LINEARSR_API_KEYS"
_SECRET_VARIABLE = "LINEARSR_WEBHOOK_SECRET"


def serve(
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 for all networks.")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 8000,
    model: Model = None,
    device: Annotated[
        list[str] | None,
        Option(help="auto, cpu, cuda, cuda:1, ...; repeat for one worker per device. Default: auto."),
    ] = None,
    dtype: WeightType = "auto",
    data: Annotated[
        Path | None,
        Option(help="Folder for jobs, inputs and results. Default: the user's application data folder."),
    ] = None,
    keep: Annotated[float, Option(min=1, help="Seconds to keep results.")] = 3600,
    max_queue: Annotated[
        int, Option(min=1, help="Maximum number of waiting jobs; more are refused (429).")
    ] = 32,
    max_streams: Annotated[
        int, Option(min=1, help="Maximum number of open event streams per client.")
    ] = 1000,
    max_mib: Annotated[float, Option(min=0.01, help="Largest upload, in MiB.")] = 64,
    max_uploads_mib: Annotated[float, Option(min=0.01, help="Maximum MiB of all uploads in progress.")] = 256,
    max_storage: Annotated[
        float | None,
        Option(min=0.001, help="Maximum GiB of stored results. Default: limited by the disk."),
    ] = None,
    max_pixels: Annotated[
        int,
        Option(min=1, max=64_000_000, help="Maximum pixels of an input; results may have 16 times as many."),
    ] = 64_000_000,
    max_seconds: Annotated[
        float,
        Option(
            min=1, help="Time limit in seconds per megapixel of an image (at least one megapixel is counted)."
        ),
    ] = 600,
    api_keys: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help=f"Require one of the keys in this file (one per line) under /v1. Or set {_KEYS_VARIABLE}.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        Option(help="Site whose pages may use this server, such as https://example.org; repeatable."),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        Option(
            help="Host name of this server, such as sr.example.org; repeatable. Default: localhost, 127.0.0.1 and "
            "[::1] on a loopback address, otherwise any."
        ),
    ] = None,
    webhook_origin: Annotated[
        list[str] | None,
        Option(
            help="Server that may be notified when a job ends, such as https://hooks.example.org; repeatable. "
            f"Needs {_SECRET_VARIABLE}, which signs the notifications."
        ),
    ] = None,
    access_log: Annotated[Literal["off", "text", "json"], Option(help="Log each request to stderr.")] = "off",
) -> None:
    """Serve the web page and the HTTP API until Ctrl-C.

    Accepted jobs continue after a restart with the same --data.

        linearsr serve --port 8080
        linearsr serve --host 0.0.0.0 --api-keys keys.txt --device cuda:0 --device cuda:1
    """
    with needing("linearsr serve", "serve"):
        from linearsr.serving.server import run
        from linearsr.serving.settings import MIB, ServeSettings, check_host, check_origin
    secret = os.environ.get(_SECRET_VARIABLE, "")
    if webhook_origin and not secret:
        stop(f"--webhook-origin needs {_SECRET_VARIABLE}: set it to a long random text that receivers know")
    settings = ServeSettings(
        data=data or Path(typer.get_app_dir("linearsr")) / "serve",
        model=model,
        devices=tuple(device or ["auto"]),
        dtype=dtype,
        api_keys=_read_keys(api_keys),
        cors_origins=tuple(_checked("--cors-origin", check_origin, cors_origin)),
        allowed_hosts=frozenset(_checked("--allowed-host", check_host, allowed_host)),
        webhook_origins=frozenset(_checked("--webhook-origin", check_origin, webhook_origin)),
        webhook_secret=secret,
        access_log=access_log,
        max_queue=max_queue,
        max_streams=max_streams,
        max_bytes=int(max_mib * MIB),
        max_upload_bytes=int(max_uploads_mib * MIB),
        max_storage=math.inf if max_storage is None else max_storage * 1024 * MIB,
        max_pixels=max_pixels,
        max_seconds=max_seconds,
        keep_seconds=keep,
    )
    with told():
        loading = doing("loading the model", logged=True)
        run(settings, host, port, loading, lambda at: say(f"LinearSR is at {at} (Ctrl-C stops it)"))


def _checked(option: str, check: Callable[[str], str], values: list[str] | None) -> list[str]:
    with told(ValueError, begin=f"{option} "):
        return [check(value) for value in values or ()]


def _read_keys(file: Path | None) -> frozenset[str]:
    if file is None:
        keys = os.environ.get(_KEYS_VARIABLE, "").split(",")
    else:
        try:
            keys = file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            stop(f"--api-keys {failure(error, file)}: give a text file with one key per line")
    known = frozenset(key.strip() for key in keys if key.strip())
    if file is not None and not known:
        stop(f"--api-keys {shown(file)} has no keys: write one per line")
    if _KEYS_VARIABLE in os.environ and not known:
        stop(f"{_KEYS_VARIABLE} has no keys: separate keys with commas, or unset it")
    return known
