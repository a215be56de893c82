"""Uploads that are on their way: each has a place in the queue, and all together so many bytes."""

from linearsr.serving.problems import Problem
from linearsr.serving.settings import MIB


class Arrivals:
    """All uploads that no job holds yet."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.count = 0
        self.bytes = 0


class Place:
    """What one upload takes up, until it is left."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals, self._size, self._left = arrivals, 0, False
        arrivals.count += 1

    def grow(self, size: int) -> None:
        """Hold so many bytes more. Raises Problem if all uploads together hold too many."""
        if self._left:
            return
        if self._arrivals.bytes + size > self._arrivals.max_bytes:
            limit = f"{self._arrivals.max_bytes / MIB:g} MiB are being sent already: come back later"
            raise Problem(503, "busy", limit, {"Retry-After": "5", "Connection": "close"})
        self._size += size
        self._arrivals.bytes += size

    def leave(self) -> None:
        """Make room; a second time does nothing."""
        if not self._left:
            self._left = True
            self._arrivals.count -= 1
            self._arrivals.bytes -= self._size
