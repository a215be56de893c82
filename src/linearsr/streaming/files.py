"""From an image file to a larger one by rows: neither is ever held, and a killed run goes on where it was."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linearsr.images.metadata import Keep
from linearsr.images.resize import scaled_size
from linearsr.images.rows.reader import DEFAULT_MAX_PIXELS, RowReader
from linearsr.images.rows.writer import RowWriter
from linearsr.model import LinearSRModel
from linearsr.settings import Fit
from linearsr.streaming.alpha import DrawnAlpha
from linearsr.streaming.job import FileJob, file_job
from linearsr.streaming.memory import buffer_bytes
from linearsr.streaming.upscale import identity_of, stream_upscale
from linearsr.streaming.work import Progress

_PASSES = "passes"
"""What the work folder of `stream_upscale` is called in ours."""
_ALPHA, _ENCODING = 0.1, 0.1
"""Shares of the whole work, about."""


@dataclass(frozen=True)
class FileResult:
    """`size`: (width, height) of what was written; `tags`: what guided it."""

    size: tuple[int, int]
    tags: tuple[str, ...]


def upscale_file(
    model: LinearSRModel,
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

    What waits between passes lies in a hidden folder beside `target`, which is removed at the end. After a kill, the
    same call goes on from there; with other settings, or another source, it starts anew.

    Args:
        settings: scale, steps, tags and so on, by the names of `LinearSRPipeline.upscale`.
        fit: the size of the result, in the place of a scale.
        quality: of JPEG, 1 to 100.
        max_pixels: of the source; more are refused.
        keep: which metadata goes along; with "nothing", tags do not either.
        strict: refuse a damaged source, though it can be read in spite of that.
        strip_rows: LR rows to work on at a time; None: by the width.
        progress: gets what is being done, and the share of the whole work that is done.

    Raises:
        ImageError: what is wrong with source or target.
        ValueError: a setting out of its range; too little room on the disk; another process has this target in work.
        ImportError: the extra `large` is not installed.
    """
    settings = dict(settings or {})
    asked = {**settings, "fit": asdict(fit or Fit()), "quality": quality, "keep": keep}
    asked["model"] = identity_of(model)
    with file_job(source, target, asked) as job:
        try:
            progress("reading", 0)
            reader = RowReader(source, job.folder, max_pixels, keep, strict)
            if fit:
                settings["scale"] = fit.scale((reader.width, reader.height))
            scale = float(settings.get("scale") or model.scale)
            size = scaled_size(reader.height, reader.width, scale)
            writer = RowWriter(target, size, reader, job.folder, overwrite, quality)
            alpha = DrawnAlpha(reader, job.folder, model.scale) if reader.alpha_varies else None
            if job.tags is None:
                _require_disk(model, reader, writer, job, settings, alpha.bytes if alpha else 0)
        except Exception:
            if job.is_new:
                job.remove()
            raise
        if job.tags is None:
            begun = 0.0
            if alpha is not None:
                _draw_alpha(model, alpha, settings, job, strip_rows, progress)
                writer.use_alpha(alpha.checked, alpha.size)
                begun = _ALPHA
            tags = stream_upscale(
                model,
                reader,
                writer,
                **settings,
                work_folder=job.folder / _PASSES,
                identity=job.source,
                strip_rows=strip_rows,
                progress=lambda label, share: progress(label, begun + share * (1 - _ENCODING - begun)),
            )
            job.finish_rows(tags)
        tags = job.tags or ()
        writer.close(
            () if keep == "nothing" else tags, lambda share: progress("encoding", 1 - _ENCODING * (1 - share))
        )
        job.remove()
    return FileResult((size[1], size[0]), tags)


def _draw_alpha(
    model: LinearSRModel,
    alpha: DrawnAlpha,
    settings: Mapping[str, Any],
    job: FileJob,
    strip_rows: int | None,
    progress: Progress,
) -> None:
    if alpha.is_whole:
        return
    alpha.clear()
    stream_upscale(
        model,
        alpha,
        alpha,
        **{**settings, "scale": None, "fidelity": 1.0},
        work_folder=job.folder / f"{_PASSES} of alpha",
        identity=job.source,
        strip_rows=strip_rows,
        progress=lambda label, share: progress(label, share * _ALPHA),
    )


def _require_disk(
    model: LinearSRModel,
    reader: RowReader,
    writer: RowWriter,
    job: FileJob,
    settings: Mapping[str, Any],
    alpha_bytes: int,
) -> None:
    """Refuse what would only end with a full disk."""
    steps = model.options(num_inference_steps=settings.get("num_inference_steps")).steps
    height, width = (side + -side % model.multiple_of for side in (reader.height, reader.width))
    needed = (
        alpha_bytes + writer.rows_bytes + max(writer.file_bytes, buffer_bytes(model, height, width, steps))
    )
    there = sum(path.stat().st_size for path in (job.folder / _PASSES).glob("*"))
    free = shutil.disk_usage(job.folder).free + there
    if free < needed:
        raise ValueError(
            f"{job.folder.parent}: a result of this size needs about {needed / 1e9:.1f} GB of disk for its work, "
            f"and {free / 1e9:.1f} GB are free: make room, or choose another folder"
        )
