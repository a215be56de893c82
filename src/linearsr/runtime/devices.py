"""Which device to compute on, in which type, and how much memory it has."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

_CONTAINERS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, files of limit and usage, and what of the usage the system gives back by itself; both versions of cgroups."""
_MEMORY_NOW = Path("/proc/meminfo")
_CLEARLY_FASTER = 0.8
"""Share of float32's time that bfloat16 may take to be chosen: a choice that is close would differ between runs."""
_computed_in: list[int] = []
"""The process that computed first; those that are forked from it inherit this."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU; MPS only if asked for, as older versions lack operations there."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """The device of that name, tried out; "auto" is the best one. Raises ValueError, one line, if it does not work."""
    if name == "auto":
        return best_device()
    reason = "no such device"
    with contextlib.suppress(RuntimeError):
        device = torch.device(name)
        try:
            (torch.zeros(1, device=device) + 1).item()
        except Exception as error:
            reason = " ".join(str(error).split()).split(". ")[0]
        else:
            return torch.device("cpu") if device.type == "cpu" else device
    raise ValueError(f"{name} cannot be used ({reason}): choose auto, cpu, cuda, cuda:1 or mps")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device is clearly faster in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and _is_faster_in_bfloat16():
        return torch.bfloat16
    return torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: MPS has not."""
    return torch.float32 if device.type == "mps" else torch.float64


@lru_cache
def _is_faster_in_bfloat16() -> bool:
    """Whether the CPU's kernels are, by a small convolution: what the processor could do may be switched off."""

    def convolve(dtype: torch.dtype) -> Callable[[], Tensor]:
        image, kernel = torch.ones(1, 128, 32, 32, dtype=dtype), torch.ones(128, 128, 3, 3, dtype=dtype)
        return partial(F.conv2d, image.contiguous(memory_format=torch.channels_last), kernel)

    in_bfloat16, in_float32 = least_seconds(convolve(torch.bfloat16), convolve(torch.float32))
    return in_bfloat16 < _CLEARLY_FASTER * in_float32


def least_seconds(*functions: Callable[[], object]) -> list[float]:
    """The least time that each of the functions takes, on one thread, called in turns."""
    # the thread's own time: other work on the machine must not decide
    exact = time.get_clock_info("thread_time").resolution < 1e-5
    clock = time.thread_time if exact else time.perf_counter
    seconds, threads = [float("inf")] * len(functions), torch.get_num_threads()
    torch.set_num_threads(1)  # waiting for others would count
    with torch.inference_mode():
        for _ in range(8):  # the first round compiles the kernels
            for i, function in enumerate(functions):
                started = clock()
                function()
                seconds[i] = min(seconds[i], clock() - started)
    torch.set_num_threads(threads)
    return seconds


def require_own_threads() -> None:
    """Called before each computation. Raises RuntimeError in a process that was forked from one that had computed.

    It has not the other's threads, and would wait for them for ever.
    """
    if not _computed_in:
        _computed_in.append(os.getpid())
    if os.getpid() not in _computed_in and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this process was forked from one that had loaded a LinearSR model, and would wait for its threads for "
            "ever: start processes with multiprocessing.get_context('spawn'), and load the model in each"
        )


def physical_memory(device: torch.device) -> int | None:
    """Bytes of memory that the device has in all, or the container may use; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits + [limit for limit, _ in _containers()])


def available_memory(device: torch.device) -> int | None:
    """Bytes of memory that can be had on the device now, or in all where the system does not say; None: unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    there = [limit - used for limit, used in _containers()]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY_NOW.read_text(encoding="ascii").splitlines()
        there.append(1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    return max(0, min(there)) if there else physical_memory(device)


def _containers() -> Iterator[tuple[int, int]]:
    """(limit, usage) in bytes of the container, if this is one that has a limit."""
    for folder, limit, usage, cache in _CONTAINERS:
        # absent outside a container, or "max"
        with contextlib.suppress(OSError, ValueError):
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            given_back = [int(line.split()[1]) for line in statistics if line.startswith(f"{cache} ")]
            yield most, used - sum(given_back)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the system, has no memory left to give."""
    # those of the CPU, and of MPS, have no type of their own
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in _NO_MEMORY
    )


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Raises ValueError if `what` needs more bytes than the device has, which would only get the process killed."""
    memory = physical_memory(device)
    if memory is not None and needed > memory:
        raise ValueError(
            f"{what} needs about {needed / 1e9:.0f} GB of memory and there are {memory / 1e9:.0f} GB: "
            "make it smaller or cut it into parts"
        )
