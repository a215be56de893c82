"""Settings of the C allocator for the memory of freed tensors."""

import ctypes
import os
import sys

_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**29), "MALLOC_MMAP_THRESHOLD_": (-3, 2**30)}
"""Environment variable of glibc -> parameter of mallopt(3) and value in bytes."""


def keep_freed_memory() -> bool:
    """Let this process and its children reuse the memory of freed tensors.

    glibc returns blocks of more than 32 MiB to the system, which clears every page of the next one: three
    tenths of the time of a result of four megapixels. In exchange, an idle process keeps up to half a GiB.
    Returns whether this call set it: False with another C library, or if the environment sets it already.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    os.environ.update({name: str(size) for name, (_, size) in _SETTINGS.items()})
    return all(mallopt(parameter, size) == 1 for parameter, size in _SETTINGS.values())
