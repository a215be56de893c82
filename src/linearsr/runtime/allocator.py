"""What the C library does with the memory of tensors that are no longer needed."""

import ctypes
import os
import sys

_SETTINGS = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**29), "MALLOC_MMAP_THRESHOLD_": (-3, 2**30)}
"""What glibc reads from the environment -> the parameter of its mallopt(3), and bytes."""


def keep_freed_memory() -> bool:
    """Let this process, and those that it starts, use the memory of a freed tensor for the next one.

    glibc gives blocks of more than 32 MiB back to the system, which then clears every page of the next one: three
    tenths of the time of an output of four megapixels. Up to half a GiB stays with an idle process instead. Returns
    whether this call has set it: not with another C library, nor where the environment says what to do already.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    os.environ.update({name: str(size) for name, (_, size) in _SETTINGS.items()})
    return all(mallopt(parameter, size) == 1 for parameter, size in _SETTINGS.values())
