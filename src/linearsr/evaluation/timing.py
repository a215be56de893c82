"""How long a call takes, and how much memory."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch

_T = TypeVar("_T")
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def measure(call: Callable[[], object], device: torch.device, runs: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    seconds_of(call, device)
    return median(seconds_of(call, device) for _ in range(runs))


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has done its work."""
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def with_peak(call: Callable[[], _T], device: torch.device) -> tuple[_T, int]:
    """What a call returns, and the most memory, in bytes, that was in use meanwhile.

    Of the device's allocator on CUDA, else of the process with all it holds. Where the system cannot forget an earlier
    peak (outside Linux), it is the most of the process so far.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        result = call()
        return result, int(torch.cuda.max_memory_allocated(device))
    forgets = _forget_peak()
    result = call()
    if forgets:
        line = next(
            row for row in _STATUS.read_text(encoding="ascii").splitlines() if row.startswith("VmHWM")
        )
        return result, int(line.split()[1]) * 1024
    import resource  # which Windows has not

    unit = 1 if sys.platform == "darwin" else 1024
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
