"""The choice of device and data type, and the memory of a device."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

_CONTAINERS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For both versions of cgroups: folder, files of limit and usage, and the entry for reclaimable usage."""
_MEMORY_NOW = Path("/proc/meminfo")
_computed_in: list[int] = []
"""The id of the process that computed first. Processes forked from it inherit it."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def best_device() -> torch.device:
    """Return CUDA if available, else the CPU. MPS must be named, because older versions lack operations."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """Return the device called `name` after a trial; "auto" is the best. Raises ValueError when it fails."""
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
    """Return bfloat16 if the device multiplies in it, else float32.

    This asks for features instead of timing a trial, which could choose differently on a busy machine.
    """
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = device.type == "cpu" and _has_bfloat16()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def _has_bfloat16() -> bool:
    """Return whether the CPU multiplies in bfloat16, and neither torch nor oneDNN is set to avoid it."""
    return (
        torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # with these, oneDNN still reports support for bfloat16, but is many times slower than in float32
        and _most_instructions() not in ("AVX512_CORE", "AVX512_CORE_VNNI")
    )


def _most_instructions() -> str:
    """Return the limit set on oneDNN's instruction set, by its present or its older variable; "": none."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    return next((os.environ[name] for name in names if name in os.environ), "").upper()


def widest_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def require_own_threads() -> None:
    """Refuse to compute in a process forked from one that had computed; called before each computation.

    The fork does not have the threads of its parent, and would wait for them forever. Raises RuntimeError.
    """
    if not _computed_in:
        _computed_in.append(os.getpid())
    if os.getpid() not in _computed_in and torch.get_num_threads() > 1:
        raise RuntimeError(
            "this process was forked from one that had loaded a LinearSR model, and would wait for its threads for "
            "ever: start processes with multiprocessing.get_context('spawn'), and load the model in each"
        )


def physical_memory(device: torch.device) -> int | None:
    """Return the total memory of the device, or the container's limit, in bytes; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits + [limit for limit, _ in _containers()])


def available_memory(device: torch.device) -> int | None:
    """Return the free memory of the device in bytes, or the total if only that is known; None if unknown."""
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
    """Yield (limit, usage) in bytes of the container, if there is one with a limit."""
    for folder, limit, usage, cache in _CONTAINERS:
        # outside a container the files are missing, or say "max"
        with contextlib.suppress(OSError, ValueError):
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
            given_back = [int(line.split()[1]) for line in statistics if line.startswith(f"{cache} ")]
            yield most, used - sum(given_back)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device or the system is out of memory."""
    # out-of-memory errors of the CPU and MPS have no type of their own
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in _NO_MEMORY
    )


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Raise ValueError if `what` needs more bytes than the device has; the system would kill the process."""
    memory = physical_memory(device)
    if memory is not None and needed > memory:
        raise ValueError(
            f"{what} needs about {needed / 1e9:.0f} GB of memory and there are {memory / 1e9:.0f} GB: "
            "make it smaller or cut it into parts"
        )
