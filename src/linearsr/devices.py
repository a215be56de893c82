"""Which device to compute on, in which type, and how much memory it has."""

import contextlib
import os
from pathlib import Path

import torch

_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MEMORY_NOW = Path("/proc/meminfo")


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU.

    MPS is left to those who ask for it: older versions of torch lack operations there that we use.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies in it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def physical_memory(device: torch.device) -> int | None:
    """Bytes of memory that the device has in all, or the container may use; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _CONTAINER_LIMITS:
        # absent outside a container, or "max"
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(name).read_text(encoding="ascii")))
    return min(limits)


def available_memory(device: torch.device) -> int | None:
    """Bytes of memory that can be had on the device now, or in all where the system does not say; None: unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    limit = physical_memory(device)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = _MEMORY_NOW.read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return min(1024 * available, limit or 1024 * available)
    return limit


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the system, has no memory left to give."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def require_memory(needed: int, device: torch.device, what: str) -> None:
    """Refuse what would only end in the process being killed.

    Raises:
        ValueError: `what` needs more bytes than the device has.
    """
    memory = physical_memory(device)
    if memory is not None and needed > memory:
        raise ValueError(
            f"{what} needs about {needed / 1e9:.0f} GB of memory and there are {memory / 1e9:.0f} GB: "
            "make it smaller or cut it into parts"
        )
