"""Upscale an image file into another by strips of rows; neither image is ever in memory as a whole."""

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
"""Approximate shares of the whole work."""
_MOST = 65535


@dataclass(frozen=True)
class FileResult:
    """The result of `upscale_file`: its `size` (width, height), and the `tags` that guided it."""

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
    """Upscale an image file into another, in the memory of a few strips. Keep alpha, bit depth and metadata.

    Intermediate rows lie in a hidden folder beside `target`, removed at the end. Needs the extra `large`.
    Raises ImageError: source or target cannot be used. Raises ValueError: a setting is out of range, there is
    too little room on the disk, or another process works on `target`.

    Args:
        settings: arguments of `LinearSRPipeline.upscale`, such as scale, num_inference_steps and tags.
        fit: size of the result; replaces the scale.
        quality: quality of a lossy format such as JPEG, 1 to 100.
        max_pixels: the most pixels that the source may have.
        keep: which metadata to copy; "nothing" also omits the tags.
        strict: refuse a damaged source, even if it can be read.
        strip_rows: LR rows per strip; None chooses by the width.
        progress: called with what is being done, and the share of the whole work that is done, 0 to 1.
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

        # alpha first, drawn as a grey picture, then the colours
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
    """Return the hidden folder for intermediate data of a result: beside it, and so on the same disk."""
    return target.with_name(f".{target.name}.linearsr-work")


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder for work on `target`. Raises ValueError: another process works on `target`."""
    from filelock import FileLock, Timeout

    folder = work_folder_of(target)
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{target}: another process is writing it: wait until it has finished") from None
    try:
        # remove what a killed run has left
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
    """Check that the disk has room for the work. Raises ValueError: it has not."""
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
    """Alpha as a grey picture: source and target of `upscale_rows`, which draws it at the model's `scale`.

    The result is stored in `folder`.
    """

    def __init__(self, source: RowReader, folder: Path, scale: int) -> None:
        self._source, self._scale = source, scale
        self.height, self.width = source.height, source.width
        self.size = scale * source.height, scale * source.width
        self._drawn = RowFile(folder / "alpha.rows", *self.size, 1, np.dtype(np.uint16))

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return self._drawn.height * self._drawn.row_bytes

    def read(self, top: int, bottom: int) -> FloatArray:
        """Read alpha as RGB; see `streaming.rows.RowReader`."""
        return self._source.read_alpha(top, bottom)[..., None].repeat(3, axis=2)

    def write(self, rows: FloatArray) -> None:
        """Store the mean of RGB as alpha; see `streaming.rows.RowWriter`."""
        self._drawn.append(np.rint(rows.mean(axis=2, keepdims=True) * _MOST))

    def checked(self, top: int, bottom: int) -> FloatArray:
        """Return rows of the result after `checked_alpha`, (bottom - top, scale * width) in [0, 1]."""
        first = max(0, top // self._scale - ALPHA_REACH)
        last = min(self.height, -(-bottom // self._scale) + ALPHA_REACH)
        start = first * self._scale
        drawn = self._drawn.read(start, last * self._scale)[..., 0].astype(np.float32) / np.float32(_MOST)
        return checked_alpha(drawn, self._source.read_alpha(first, last))[top - start : bottom - start]
