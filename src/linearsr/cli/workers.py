"""Several devices: a process for each, which takes the next image when it has finished one."""

import contextlib
import io
import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any

import typer

from linearsr.cli.batch import Work, run_job
from linearsr.cli.console import BatchProgress, say, shown, stop
from linearsr.cli.inputs import Job

Load = Callable[[str], tuple[Work, list[str]]]
"""Device -> what works on a job, and words that it cannot use. It must be possible to send it to another process."""

_work: Work
"""Of a worker process."""


class Workers:
    """One process for each device. Leaving it by an exception ends them.

    Args:
        load: called in each process, once.
        devices: names; one may come several times.
    """

    def __init__(self, load: Load, devices: Sequence[str]) -> None:
        self._load, self._devices = load, devices
        self._free: queue.SimpleQueue[tuple[str, ProcessPoolExecutor]] = queue.SimpleQueue()
        self.unknown: list[str] = []
        self._closing = False

    def __enter__(self) -> "Workers":
        started = [(device, self._start()) for device in self._devices]
        loading = [process.submit(_begin, self._load, device, len(started)) for device, process in started]
        for worker in started:
            self._free.put(worker)
        try:
            for future in loading:
                status, self.unknown, lines = future.result()
                if status is not None or future is loading[0]:
                    _say_all(lines)
                if status is not None:
                    raise typer.Exit(status)
        except BrokenProcessPool:
            self._end()
            stop(
                "a process was killed while it loaded the model, perhaps for want of memory: name fewer devices"
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
            record, lines = process.submit(_do, job).result()
        except BrokenProcessPool:
            if self._closing:
                raise
            process = self._start()
            process.submit(_begin, self._load, device, len(self._devices))
            message = "its process was killed, perhaps for want of memory: try it again with --memory-limit"
            record, lines = {"status": "failed", "error": message}, [f"{shown(job.input)}: {message}"]
        finally:
            self._free.put((device, process))
        _say_all(lines)
        return record

    def _start(self) -> ProcessPoolExecutor:
        # a process that is forked cannot use CUDA
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _begin(load: Load, device: str, processes: int) -> tuple[int | None, list[str], list[str]]:
    """In a worker: exit status if it cannot load, unknown words, lines to say."""
    import torch

    global _work
    # Ctrl-C is for the first process, which ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: _end(number))
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            _work, unknown = load(device)
        except typer.Exit as refusal:
            return refusal.exit_code, [], said.getvalue().splitlines()
    return None, unknown, said.getvalue().splitlines()


def _do(job: Job) -> tuple[dict[str, Any], list[str]]:
    """In a worker: the record of a job, and lines to say."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        record = run_job(job, _work, BatchProgress(0))
    return record, said.getvalue().splitlines()


def _end(number: int) -> None:
    # as an exception, so that a file in work is removed
    raise SystemExit(128 + number)


def _say_all(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)
