"""From an image file to a larger one by rows: neither is ever held."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linearsr.images.alpha import ALPHA_REACH, checked_alpha
from linearsr.images.metadata import Keep
from linearsr.images.picture import FloatArray
from linearsr.images.resize import scaled_size
from linearsr.images.rows.reader import DEFAULT_MAX_PIXELS, RowReader
from linearsr.images.rows.row_file import RowFile
from linearsr.images.rows.writer import RowWriter
from linearsr.pipeline import LinearSRPipeline
from linearsr.settings import Fit
from linearsr.streaming.memory import buffer_bytes
from linearsr.streaming.rows import Progress

_ALPHA, _ENCODING = 0.1, 0.1
"""Shares of the whole work, about."""
_MOST = 65535


@dataclass(frozen=True)
class FileResult:
    """`size`: (width, height) of what was written; `tags`: what guided it."""

    size: tuple[int, int]
    tags: tuple[str, ...]


def upscale_file(
    pipeline: LinearSRPipeline,
    source: Path,
    target: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    fit: Fit | None = None,
    overwrite: bool = False,
    quality: int = 95,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    keep: Keep = "all",
    strict: bool = False,
    strip_rows: int | None = None,
    progress: Progress = lambda label, share: None,
) -> FileResult:
    """Upscale an image file into another, with alpha, bits and notes, in the memory of some strips.

    What waits between passes lies in a hidden folder beside `target`, which is removed at the end. Needs the extra
    `large`. Raises ImageError for what is wrong with source or target; ValueError for a setting out of its range, too
    little room on the disk, or a target that another process has in work.

    Args:
        settings: scale, steps, tags and so on, by the names of `LinearSRPipeline.upscale`.
        fit: the size of the result, in the place of a scale.
        quality: of JPEG, 1 to 100.
        max_pixels: of the source; more are refused.
        keep: which metadata goes along; with "nothing", tags do not either.
        strict: refuse a damaged source, though it can be read in spite of that.
        strip_rows: LR rows to work on at a time; None: by the width.
        progress: gets what is being done, and the share of the whole work that is done.
    """
    settings = dict(settings or {})
    with _work_folder(target) as folder:
        progress("reading", 0)
        reader = RowReader(source, folder, max_pixels, keep, strict)
        if fit:
            settings["scale"] = fit.scale((reader.width, reader.height))
        size = scaled_size(reader.height, reader.width, float(settings.get("scale") or pipeline.scale))
        writer = RowWriter(target, size, reader, folder, overwrite, quality)
        alpha = DrawnAlpha(reader, folder, pipeline.scale) if reader.alpha_varies else None
        _require_disk(pipeline, reader, writer, folder, settings, alpha.bytes if alpha else 0)
        begun = 0.0

        def go_on(label: str, share: float) -> None:
            progress(label, begun + share * (1 - _ENCODING - begun))

        def upscale(rows: Any, into: Any, report: Progress, **own: Any) -> tuple[str, ...]:
            asked = {**settings, **own}
            return pipeline.upscale_rows(
                rows, into, **asked, work_folder=folder, strip_rows=strip_rows, progress=report
            )

        if alpha is not None:
            upscale(
                alpha, alpha, lambda label, share: progress(label, share * _ALPHA), scale=None, fidelity=1.0
            )
            writer.use_alpha(alpha.checked, alpha.size)
            begun = _ALPHA
        tags = upscale(reader, writer, go_on)
        writer.close(
            () if keep == "nothing" else tags, lambda share: progress("encoding", 1 - _ENCODING * (1 - share))
        )
        progress("encoding", 1)
    return FileResult((size[1], size[0]), tags)


def work_folder_of(target: Path) -> Path:
    """Where work on a result waits: beside it, so on its disk, and hidden."""
    return target.with_name(f".{target.name}.linearsr-work")


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """A folder for work on `target`, empty, and removed at the end. Raises ValueError if another process has it."""
    from filelock import FileLock, Timeout

    folder = work_folder_of(target)
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{target}: another process has it in work: wait for its end") from None
    try:
        # what a run that was killed has left
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _require_disk(
    pipeline: LinearSRPipeline,
    reader: RowReader,
    writer: RowWriter,
    folder: Path,
    settings: Mapping[str, Any],
    alpha_bytes: int,
) -> None:
    """Refuse what would only end with a full disk."""
    steps = pipeline.options(num_inference_steps=settings.get("num_inference_steps")).steps
    height, width = (side + -side % pipeline.multiple_of for side in (reader.height, reader.width))
    passes = buffer_bytes(pipeline, height, width, steps)
    needed = alpha_bytes + writer.rows_bytes + max(writer.file_bytes, passes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.parent}: a result of this size needs about {needed / 1e9:.1f} GB of disk for its work, "
            f"and {free / 1e9:.1f} GB are free: make room, or choose another folder"
        )


class DrawnAlpha:
    """Alpha as a grey picture for `upscale_rows`, and what it makes of it at the model's `scale`, kept in `folder`."""

    def __init__(self, source: RowReader, folder: Path, scale: int) -> None:
        self._source, self._scale = source, scale
        self.height, self.width = source.height, source.width
        self.size = scale * source.height, scale * source.width
        self._drawn = RowFile(folder / "alpha.rows", *self.size, 1, np.dtype(np.uint16))

    @property
    def bytes(self) -> int:
        """Bytes of disk that it takes."""
        return self._drawn.height * self._drawn.row_bytes

    def read(self, top: int, bottom: int) -> FloatArray:
        """See `streaming.rows.RowReader`."""
        return self._source.read_alpha(top, bottom)[..., None].repeat(3, axis=2)

    def write(self, rows: FloatArray) -> None:
        """See `streaming.rows.RowWriter`."""
        self._drawn.append(np.rint(rows.mean(axis=2, keepdims=True) * _MOST))

    def checked(self, top: int, bottom: int) -> FloatArray:
        """Rows of the result, (bottom - top, scale * width) in [0, 1]."""
        first = max(0, top // self._scale - ALPHA_REACH)
        last = min(self.height, -(-bottom // self._scale) + ALPHA_REACH)
        start = first * self._scale
        drawn = self._drawn.read(start, last * self._scale)[..., 0].astype(np.float32) / np.float32(_MOST)
        return checked_alpha(drawn, self._source.read_alpha(first, last))[top - start : bottom - start]
