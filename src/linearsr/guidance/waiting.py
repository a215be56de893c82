"""What is too large to keep at hand: encoders that wait elsewhere between uses, and results worth remembering."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linearsr.flow.experts import Residency


class WaitingEncoder:
    """A frozen network that is read when it is first used. Threads take turns.

    `read(dtype)` makes it, on the CPU. Between uses it stays where `residency` says: "all": on the device; "active":
    in CPU memory; "lazy": on disk, to be read again.
    """

    def __init__(self, read: Callable[[torch.dtype], nn.Module], residency: Residency = "all") -> None:
        self.residency: Residency = residency
        self._read = read
        self._network: nn.Module | None = None
        self._dtype: torch.dtype | None = None
        self._lock = threading.RLock()

    @contextmanager
    def on(self, device: torch.device, dtype: torch.dtype) -> Iterator[Any]:
        """The network on `device`, its weights in `dtype`; there are no gradients while the context lasts."""
        # weights read under inference_mode could not be moved outside it
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if self._network is None or self._dtype != dtype:
                self._network, self._dtype = self._read(dtype).eval().requires_grad_(False), dtype
            network = self._network.to(device)
            try:
                yield network
            finally:
                if self.residency == "active":
                    network.to("cpu")
                elif self.residency == "lazy":
                    self._network = None


class RecentResults:
    """The results used last, at most `capacity` of them. Threads may share it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._results: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """The result for `key`, from `make` if it is not remembered."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = make()
        with self._lock:
            self._results[key] = result
            while len(self._results) > self._capacity:
                self._results.popitem(last=False)
        return result
