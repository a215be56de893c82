"""Several devices: a process for each, which takes the next image when it has finished one."""

import contextlib
import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from linearsr.jobs.messages import failure
from linearsr.jobs.names import Job
from linearsr.jobs.run import Rules, Watcher, Work, run_job

Load = Callable[[str], tuple[Work, list[str]]]
"""Device -> what works on a job, and words that it cannot use. It must be possible to send it to another process."""

_KILLED_LOADING = (
    "a process was killed while it loaded the model, perhaps for want of memory: name fewer devices"
)
_KILLED = "its process was killed, perhaps for want of memory: try it again with --memory-limit"
_work: Work
"""Of a worker process."""


class _Lines(Watcher):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        """One line more."""
        self.said.append(line)


class Workers:
    """One process for each device. Leaving it by an exception ends them.

    Args:
        load: called in each process, once.
        devices: names; one may come several times.
        say: gets what is said in the processes, line by line.
        rules: of the run.
    """

    def __init__(self, load: Load, devices: Sequence[str], say: Callable[[str], None], rules: Rules) -> None:
        self._load, self._devices, self._say, self._rules = load, devices, say, rules
        self._free: queue.SimpleQueue[tuple[str, ProcessPoolExecutor]] = queue.SimpleQueue()
        self._closing = False

    def start(self) -> list[str]:
        """Load in each process; the words that none can use.

        Raises:
            ValueError: what keeps a process from being ready.
        """
        started = [(device, *self._start(device)) for device in self._devices]
        for device, process, _ in started:
            self._free.put((device, process))
        unknown: list[str] = []
        try:
            for _, _, loading in started:
                refusal, unknown = loading.result()
                if refusal is not None:
                    raise ValueError(refusal)
        except BrokenProcessPool:
            self._end()
            raise ValueError(_KILLED_LOADING) from None
        except BaseException:
            self._end()
            raise
        return unknown

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._end()
        while not self._free.empty():
            self._free.get()[1].shutdown()

    def run(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """The records of jobs, in their order; what is said of each is said when it is done."""
        with ThreadPoolExecutor(len(self._devices)) as threads:
            try:
                yield from threads.map(self._run, jobs)
            except BaseException:
                # before the threads are waited for
                self._end()
                raise

    def _end(self) -> None:
        self._closing = True
        for process in multiprocessing.active_children():
            process.terminate()

    def _run(self, job: Job) -> dict[str, Any]:
        device, process = self._free.get()
        try:
            record, lines = process.submit(_do, job, self._rules).result()
        except BrokenProcessPool:
            if self._closing:
                raise
            process, _ = self._start(device)
            record, lines = {"status": "failed", "error": _KILLED}, [f"{job.label}: {_KILLED}"]
        finally:
            self._free.put((device, process))
        for line in lines:
            self._say(line)
        return record

    def _start(self, device: str) -> "tuple[ProcessPoolExecutor, Future[tuple[str | None, list[str]]]]":
        # a process that is forked cannot use CUDA
        process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        with _signals_held():
            return process, process.submit(_begin, self._load, device, len(self._devices))


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Ctrl-C waits, and a process started meanwhile never sees it: it is for the first one, which ends the others."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(load: Load, device: str, processes: int) -> tuple[str | None, list[str]]:
    """In a worker: why it cannot work, and unknown words."""
    import torch

    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: _end(number))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    try:
        _work, unknown = load(device)
    except Exception as error:
        return failure(error), []
    return None, unknown


def _do(job: Job, rules: Rules) -> tuple[dict[str, Any], list[str]]:
    """In a worker: the record of a job, and lines to say."""
    lines = _Lines()
    return run_job(job, _work, lines, rules), lines.said


def _end(number: int) -> None:
    # as an exception, so that a file in work is removed
    raise SystemExit(128 + number)
