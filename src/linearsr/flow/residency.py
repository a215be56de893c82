"""Experts of which only the one in use is in device memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[nn.Module], object]


class SwappedExperts(nn.Module):
    """One expert at a time: the one in use is a submodule, and gives way when another is asked for.

    `load(index)` makes one of `count` experts on the CPU, from memory or from disk. Whatever was done to the
    experts since, by `.to()` or `for_each`, is done again to each one that comes in. Expert 0, with which every
    picture begins, comes in at once, so that a broken folder shows at once and there are parameters that tell
    device and dtype. Calls from several threads take turns.
    """

    def __init__(self, load: Callable[[int], nn.Module], count: int) -> None:
        super().__init__()
        self._count = count
        self._load = load
        self._changes: list[Change] = []
        self._lock = threading.RLock()
        self._index = 0
        self.active: nn.Module | None = load(0)

    def __len__(self) -> int:
        return self._count

    def run(self, index: int, *args: Any, **kwargs: Any) -> Any:
        """The output of expert `index`, brought in first if another one is there."""
        with self.use(index) as expert:
            return expert(*args, **kwargs)

    @contextmanager
    def use(self, index: int) -> Iterator[nn.Module]:
        """Expert `index`, there until the end of the block."""
        with self._lock:
            if self.active is None or index != self._index:
                self._swap(index)
            assert self.active is not None
            yield self.active

    def fresh(self, index: int) -> nn.Module:
        """Expert `index` as it was loaded, on the CPU."""
        return self._load(index)

    def for_each(self, change: Change) -> None:
        """Do `change` to the expert in use now, and to each other one when it comes in.

        It must not write into the weights in place: `load` may hand out the same tensors again.
        """
        with self._lock:
            self._changes.append(change)
            if self.active is not None:
                change(self.active)

    def _swap(self, index: int) -> None:
        # Dropped before the next one comes, so that the device never holds two; and weights made under
        # inference_mode could not be changed outside it.
        self.active = None
        with torch.inference_mode(False), torch.no_grad():
            expert = self._load(index).train(self.training)
            for change in self._changes:
                change(expert)
        self.active, self._index = expert, index

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SwappedExperts":
        # What Module.to(), .cuda(), .half() and so on end in.
        def change(expert: Any) -> None:
            expert._apply(fn, recurse)

        self.for_each(change)
        return self
