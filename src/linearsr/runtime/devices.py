"""Which device to compute on, in which type, and how much memory it has."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

_CONTAINERS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, files of limit and usage, and what of the usage the system gives back by itself; both versions of cgroups."""
_MEMORY_NOW = Path("/proc/meminfo")
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
    raise ValueError(f"{name} cannot be used ({reason}): choose auto, cpu, cuda or mps")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, else float32. A trial would choose differently on a busy machine."""
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device.type == "cpu" and _has_bfloat16()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies in it, and neither torch nor oneDNN is told to do without."""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # for which oneDNN counts AVX-512 without it, where it is many times slower than float32
        and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() not in ("AVX512_CORE", "AVX512_CORE_VNNI")
    )


def widest_dtype(device: torch.device) -> torch.dtype:
    """float64 where the device has it: MPS has not."""
    return torch.float32 if device.type == "mps" else torch.float64


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
