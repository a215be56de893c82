"""Sources and targets of rows of images, buffers between two passes, and the progress of passes.

Files are read and written a strip at a time. If they were mapped, touched pages would count as this process's
memory; this way the system caches what it has room for, and frees it when others need it.

Shapes: B images, C channels, n of h rows, w columns.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linearsr.streaming.memory import fits_in_memory

ReadRows = Callable[[int, int], Tensor]
"""Reads rows: (top, bottom) -> (B, C, bottom - top, w)."""
Progress = Callable[[str, float], None]
"""Called with what is being done, and the share of the whole work that is done, 0 to 1."""
Report = Callable[[float], None]
"""Called with the share of this pass that is done, 0 to 1."""
_Made = TypeVar("_Made")


class RowReader(Protocol):
    """An LR picture whose rows can be read in any order."""

    height: int
    width: int

    def read(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Read rows (bottom - top, width, 3) in [0, 1]: RGB, grey as RGB, transparency filled in."""


class RowWriter(Protocol):
    """A target that takes an HR picture from top to bottom."""

    def write(self, rows: NDArray[np.float32]) -> None:
        """Write the next rows, (n, W, 3) in [0, 1]."""


class LRRows:
    """LR images as the networks see them: rows (B, 3, n, w) in [-1, 1], padded as by `pad_to_multiple`.

    `own_size` is the (height, width) of the images; `height` and `width` include the padding.

    Args:
        read: reads rows of the images.
        multiple: both padded sides are multiples of this.
        device: device of the networks.
        batch: number of images, B.
    """

    def __init__(
        self, read: ReadRows, own_size: tuple[int, int], multiple: int, device: torch.device, batch: int = 1
    ) -> None:
        self._read, self.own_size, self.device, self.batch = read, own_size, device, batch
        down, self._right = (-side % multiple for side in own_size)
        self.height, self.width = own_size[0] + down, own_size[1] + self._right
        self._mode = "reflect" if down < own_size[0] and self._right < own_size[1] else "replicate"

    def read(self, top: int, bottom: int) -> Tensor:
        """Read padded rows."""
        height = self.own_size[0]
        below = max(0, bottom - height)
        # start early enough to include the rows that are mirrored at the bottom
        first = max(0, min(top, height - 1 - below)) if below else top
        rows = self.unpadded(first, min(bottom, height))
        if not below and not self._right:
            return rows
        return F.pad(rows, (0, self._right, 0, below), mode=self._mode)[:, :, top - first :]

    def unpadded(self, top: int, bottom: int) -> Tensor:
        """Read rows of the images without padding."""
        return self._read(top, bottom).to(self.device)

    def strips(self, rows: int, report: Report) -> Iterator[Tensor]:
        """Yield strips of `rows` padded rows. Each is reported as done when the next is requested."""
        for top, bottom in strips(self.height, rows):
            yield self.read(top, bottom)
            report(bottom / self.height)


def rows_of(reader: RowReader) -> ReadRows:
    """Return a function that reads rows of `reader` as (1, 3, n, w) in [-1, 1]."""

    def read(top: int, bottom: int) -> Tensor:
        rows = np.ascontiguousarray(reader.read(top, bottom), dtype=np.float32)
        return torch.from_numpy(rows).permute(2, 0, 1)[None] * 2 - 1

    return read


def strips(height: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield (top, bottom) of strips of `rows` rows; the last may be shorter."""
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def fill(buffer: "Buffer", strips: Iterable[Tensor]) -> None:
    """Write strips of rows to a buffer, one below the other."""
    for _ in filling(buffer, strips):
        pass


def filling(buffer: "Buffer", strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """Write strips of rows to a buffer, and yield each once it is written."""
    done = 0
    for rows in strips:
        buffer.write(done, rows)
        done += rows.shape[2]
        yield rows


class MemoryBuffer:
    """A buffer in memory. If all rows are written at once, it keeps their tensor without a copy."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        self._shape, self._dtype = shape, dtype
        self._rows: Tensor | None = None

    def read(self, top: int, bottom: int) -> Tensor:
        assert self._rows is not None
        return self._rows[:, :, top:bottom]

    def write(self, top: int, rows: Tensor) -> None:
        if rows.shape[2] == self._shape[2]:
            self._rows = rows.to(self._dtype)
            return
        if self._rows is None:
            self._rows = torch.empty(self._shape, dtype=self._dtype, memory_format=torch.channels_last)
        self._rows[:, :, top : top + rows.shape[2]] = rows


class FileBuffer:
    """A buffer in a file."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        from linearsr.images.rows.row_file import RowFile

        self._batch, self._channels, height, self._width = shape
        self._dtype = dtype
        row_bytes = prod(shape) // height * dtype.itemsize
        self._file = RowFile(path, height, row_bytes, 1, np.dtype(np.uint8))
        self._file.clear()

    def read(self, top: int, bottom: int) -> Tensor:
        samples = torch.from_numpy(self._file.read(top, bottom)).flatten().view(self._dtype)
        return samples.view(-1, self._batch, self._width, self._channels).permute(1, 3, 0, 2)

    def write(self, top: int, rows: Tensor) -> None:
        samples = rows.permute(2, 0, 3, 1).to("cpu", self._dtype).contiguous()
        self._file.write(top, samples.flatten().view(torch.uint8).numpy())


Buffer = MemoryBuffer | FileBuffer
"""Rows (B, C, n, w): `write` stores some at `top`, `read` returns those from `top` to `bottom`. In memory,
both may use the tensor itself instead of a copy."""


class Pass(Protocol):
    """A step of the work that goes over all rows from top to bottom, once or several times."""

    @property
    def cost(self) -> float:
        """Approximate cost in multiply-accumulates."""

    def run(self) -> None:
        """Compute all rows."""


class Work:
    """The passes over images: how many rows they take at a time, their buffers and their progress.

    Args:
        strip: padded LR rows to work on at a time; None processes all at once, so every pass sees whole
            images.
        folder: folder for buffers in files; None keeps them in memory.
    """

    def __init__(
        self, strip: int | None = None, folder: Path | None = None, progress: Progress | None = None
    ) -> None:
        self.strip, self._folder = strip, folder
        self._progress = progress or (lambda label, share: None)
        self._cost, self._spent = 1.0, 0.0
        self._buffers: dict[str, Buffer] = {}

    def run(self, *passes: Pass) -> None:
        """Run all passes, one after the other."""
        self._cost = max(1.0, sum(each.cost for each in passes))
        for each in passes:
            each.run()

    def rows(self, height: int, lr_height: int, times: int = 1) -> int:
        """Return the rows of an image of `height` that `times` strips of its `lr_height` LR rows cover."""
        return height if self.strip is None else max(1, times * self.strip * height // lr_height)

    def do(self, label: str, cost: float, body: Callable[[Report], _Made]) -> _Made:
        """Run a pass of this cost, and return its result."""
        made = body(lambda share: self._report(label, share * cost))
        self._spent += cost
        self._report(label, 0)
        return made

    def buffer(self, name: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> Buffer:
        """Return the buffer called `name`, created on first use."""
        if name not in self._buffers:
            self._buffers[name] = (
                MemoryBuffer(shape, dtype)
                if self._folder is None
                else FileBuffer(self._folder / f"{name}.rows", shape, dtype)
            )
        return self._buffers[name]

    def drop(self, *names: str) -> None:
        """Free buffers that no pass reads any longer."""
        for name in self._buffers.keys() & set(names):
            del self._buffers[name]
            if self._folder is not None:
                (self._folder / f"{name}.rows").unlink()

    def _report(self, label: str, cost: float) -> None:
        self._progress(label, min(1.0, (self._spent + cost) / self._cost))


@contextmanager
def work_of(
    needed: int, strip: int | None, folder: Path | None = None, progress: Progress | None = None
) -> Iterator[Work]:
    """Provide `Work` with buffers of `needed` bytes, in `folder`, or else in memory or a temporary folder.

    Raises:
        ValueError: the disk has too little room.
    """
    with ExitStack() as stack:
        place = None
        if folder is not None or not fits_in_memory(needed):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            place = Path(stack.enter_context(TemporaryDirectory(prefix="linearsr-", dir=folder)))
            free = shutil.disk_usage(place).free
            if free < needed:
                raise ValueError(
                    f"{place.parent}: a picture of this size needs about {needed / 1e9:.0f} GB of disk for its work, "
                    f"and {free / 1e9:.0f} GB are free: make room, or name a folder on another disk"
                )
        yield Work(strip, place, progress)
