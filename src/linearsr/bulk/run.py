"""The run of a bulk job on Ray Data: each image is done exactly once, whichever processes are killed.

Ray is started locally for the time of the job, or is an existing cluster. Its own output is suppressed.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO, cast

from linearsr.bulk.plan import Item, Plan, rows
from linearsr.bulk.report import Result, result
from linearsr.bulk.store import BulkError
from linearsr.bulk.worker import BulkWorker, SharedAttempts

_MAX_BATCH = 8
_PIECES = 64
"""Least number of pieces per worker, if there are enough images, so that all end at about the same time."""
_SETTINGS = {
    "RAY_usage_stats_enabled": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",
}
"""Environment variables that Ray reads when it is imported and started."""
_OBJECT_STORE = 256 * 2**20
"""Bytes of memory that a local Ray reserves for rows; images do not go through it."""
_MEMORY_PER_WORKER = 2 * 2**30
"""Bytes of memory that a worker takes with the default model and an image of a megapixel."""
_SECONDS_TO_ANSWER = 10
"""How long to try to connect to a cluster. Ray itself tries for a minute without any message."""


@dataclass(frozen=True)
class Cluster:
    """The options of `linearsr batch` that are about Ray. `address` may also be "local": start Ray here."""

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    use_gpu: bool = True


@dataclass(frozen=True)
class Pool:
    """The number of worker processes, and the CPU threads and GPUs of each; several may share a GPU."""

    workers: int
    threads: int
    gpus: float


def results(
    plan: Plan, upscaler: Mapping[str, Any], cluster: Cluster, on_killed: Callable[[], None] = lambda: None
) -> Generator[Result]:
    """Carry out a plan and yield a row for each image, first those that need no work.

    An image whose worker is killed is tried again; it fails after three such attempts. The job ends when all
    images have a row, or with KeyboardInterrupt. Raises BulkError: Ray or the model cannot be used.

    Args:
        upscaler: arguments of the `LinearSRUpscaler` of each worker.
        on_killed: called when a worker has taken the place of one that was killed.
    """
    for item in plan.done:
        yield result(item.name, "skipped", output=item.output)
    for name, problem in plan.problems.items():
        yield result(name, "failed", error=problem)
    missing = {item.name: item for item in plan.todo}
    if not missing:
        return
    given = rows(missing.values(), shards=plan.places.shards)
    try:
        with _ray_pool(cluster) as pool:
            piece = min(_MAX_BATCH, max(1, len(given) // (pool.workers * _PIECES)))
            arguments = {"threads": pool.threads, "workers": pool.workers, "attempts": SharedAttempts()}
            arguments |= {"places": plan.places, "upscaler": upscaler}
            for row in _run(given, piece, arguments, pool):
                if row["status"] == "stopped":
                    raise BulkError(str(row["error"]))
                if row["status"] == "replaced":
                    on_killed()
                for name in _images(row["input"], missing):
                    del missing[name]
                    yield {**row, "input": name}
    except KeyboardInterrupt:
        # report the results that were written, but whose rows have not arrived yet; a tar file may lack some images
        known = not (plan.places.overwrite or plan.places.shards)
        there = set(plan.places.target.names()) if known else set()
        finished = [item for item in missing.values() if item.output in there]
        yield from (result(item.name, "done", output=item.output) for item in finished)
        raise
    for name in missing:
        yield result(name, "failed", error="was lost during the run: run the command again")


def _images(name: str, missing: dict[str, Item]) -> list[str]:
    """Return the missing images that a row is about: the one it names, or all of the tar file it names."""
    return [name] if name in missing else [image for image, item in missing.items() if item.file == name]


@contextlib.contextmanager
def _ray_pool(cluster: Cluster) -> Iterator[Pool]:
    """Run Ray for the time of the block, unless it runs already, and yield a pool that fits its resources.

    Raises BulkError: Ray cannot be used, or has too few CPUs.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ours, on_sigterm = not ray.is_initialized(), signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(cast(TextIO, _OneThread(sys.stdout))):
        if ours:
            _start(cluster)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler prints a page and aborts
        try:
            yield _pool(cluster, ray.cluster_resources())
        finally:
            if ours:
                ray.shutdown()


def _start(cluster: Cluster) -> None:
    import ray

    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        # the CPUs that this process may use
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cpus = max(cpus, (cluster.workers or 1) * (cluster.threads or 1))
        options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    host, colon, port = address.rpartition(":")
    try:
        if colon and "/" not in host and port.isdecimal():  # other kinds of addresses are left to Ray
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
        with _silent():
            ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "Ray cannot be started" if address == "local" else f"no Ray cluster at {address}"
        raise BulkError(f"{where}: {str(error).strip().splitlines()[0]}") from error


def _pool(cluster: Cluster, resources: dict[str, float]) -> Pool:
    cpus = max(1, int(resources.get("CPU", 1)))
    gpus = resources.get("GPU", 0.0) if cluster.use_gpu else 0.0
    room = int(resources.get("memory", 0) / _MEMORY_PER_WORKER)
    workers = cluster.workers or int(gpus) or max(1, min(room, cpus // (cluster.threads or 1)))
    threads = cluster.threads or max(1, cpus // workers)
    if workers * threads > cpus:
        raise BulkError(
            f"{workers} workers with {threads} threads need {workers * threads} CPUs and Ray has {cpus}: "
            "lower --workers or --threads-per-worker"
        )
    return Pool(workers, threads, min(1.0, gpus / workers))


class _OneThread:
    """A stream that drops text of other threads: one of Ray's prints a page about each process that dies."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        """Write text of the thread that made this stream; drop any other."""
        return self._stream.write(text) if threading.current_thread() is self._thread else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Discard what native code writes to stderr: Ray reports there that its logging is turned off."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _run(rows: Sequence[Item], size: int, arguments: dict[str, Any], pool: Pool) -> Iterator[dict[str, Any]]:
    """Give `rows` to the workers, `size` at a time, and yield the rows that they return, in any order.

    A worker that dies is replaced, and its rows go to another. Raises BulkError: no worker can be started.
    """
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # an unexpected error in a worker loses its rows, but does not end the job
    context.max_errored_blocks = -1
    blocks = -(-len(rows) // size)
    results = ray.data.from_items([asdict(row) for row in rows], override_num_blocks=blocks).map_batches(
        BulkWorker,
        fn_constructor_kwargs=arguments,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, blocks)),
        num_cpus=pool.threads,
        num_gpus=pool.gpus or None,
    )
    try:
        for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from table.to_pylist()
    except ray.exceptions.RayError as error:
        raise BulkError(f"the workers failed: {str(error).strip().splitlines()[-1]}") from error
