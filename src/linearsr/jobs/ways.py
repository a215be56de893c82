"""Which way an image goes: in one piece where that fits the memory, else in strips of rows."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linearsr.jobs.names import Job
from linearsr.jobs.run import Watcher

if TYPE_CHECKING:
    from linearsr.pipeline import LinearSRPipeline

_HELD_BYTES_PER_PIXEL = 16
"""Of a result that is held while strips of it are made: its floats, and a copy of them."""


@dataclass(frozen=True)
class Way:
    """`kind`: "whole", in one piece; "held", in strips into a result in memory; "rows", from file to file in strips.

    `strip_rows`: LR rows at a time, None for as many as are good; `reason`: why, for people.
    """

    kind: Literal["whole", "held", "rows"]
    strip_rows: int | None
    reason: str


def choose_way(pipeline: "LinearSRPipeline", path: Path, scale: float, memory_limit: float | None) -> Way:
    """The way of an image file; `memory_limit` in GiB, None for what is free.

    Raises:
        ImportError: the image fits no way but "rows", and the extra `large` is not installed.
    """
    from linearsr.images.io import ImageError, read_size
    from linearsr.images.rows.vips import vips
    from linearsr.runtime.devices import available_memory
    from linearsr.streaming.memory import strip_bytes, strip_rows_for, strip_rows_within

    try:
        height, width = read_size(path, str(path), max_pixels=sys.maxsize)
    except ImageError:
        return Way("whole", None, "what is wrong with it shows when it is read")
    whole = pipeline.estimate_memory(height, width, scale=scale)
    limit = available_memory(pipeline.device) if memory_limit is None else int(memory_limit * 2**30)
    fits = pipeline.fits(height, width, scale) if memory_limit is None else limit is None or whole <= limit
    sizes = f"{width}x{height} needs about {_size(whole)} in one piece"
    if limit is not None:
        sizes += f" and may have {_size(limit)}"
    if fits:
        return Way("whole", None, f"{sizes}: in one piece")

    rows = strip_rows_for(width, pipeline.device)
    if memory_limit is not None and limit is not None:
        rows = min(rows, strip_rows_within(pipeline, width, limit))
    sizes += f": in strips of {rows} row{'s' * (rows > 1)}, about {_size(strip_bytes(pipeline, width, rows))}"
    held = height * width * scale**2 * _HELD_BYTES_PER_PIXEL
    try:
        vips()
    except ImportError:
        if limit is not None and held > limit:
            raise
        return Way("held", rows, f"{sizes}, and {_size(held)} for the result")
    return Way("rows", rows, sizes)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


class StripProgress:
    """Tells how work in strips goes on, and after Ctrl-C how far it was."""

    def __init__(self, job: Job, watcher: Watcher, verbose: bool) -> None:
        self._job, self._watcher, self._verbose = job, watcher, verbose
        self._doing, self._share = "", 0.0

    def __call__(self, doing: str, share: float) -> None:
        """What is being done, and the share of all the work that is done."""
        self._watcher.show_share(self._job.input, doing, share)
        if self._verbose and doing != self._doing:
            self._watcher.say(f"{self._job.label}: {doing} ({share:.0%} done)")
        self._doing, self._share = doing, share

    def __enter__(self) -> "StripProgress":
        self._watcher.start_image(self._job.input, 100)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._watcher.say(f"{self._job.label}: stopped at {self._share:.0%}")
