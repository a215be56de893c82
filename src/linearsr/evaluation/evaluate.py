"""A whole evaluation: measure image by image, then summarise."""

import math
from collections.abc import Callable, Sequence
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import Tensor

from linearsr._version import __version__
from linearsr.evaluation.records import Records, Row
from linearsr.evaluation.registry import Metric, NotAvailable, Scorer
from linearsr.evaluation.sources import Case, Images, Pixels, Source


def measure(
    source: Source,
    metrics: Sequence[Metric],
    records: Records,
    *,
    border: int = 0,
    device: torch.device | None = None,
    begin: Callable[[Case], object] = lambda case: None,
    end: Callable[[Case, str | None], object] = lambda case, error: None,
) -> dict[str, Any]:
    """Measure every image of `source` that `records` does not hold yet, one at a time, and summarise.

    Args:
        border: pixels to cut off each side of an image and its reference before measuring.
        device: device of metrics that are networks; None is the CPU.
        begin, end: called before and after each image; `end` gets the reason if it could not be read or made.

    Returns:
        The summary, ready for JSON: settings, metrics, what is not available, and what failed.
    """
    scorers, unavailable = scorers_of(metrics, device or torch.device("cpu"))
    reused = 0
    failed: dict[str, str] = {}
    for case in source.cases:
        begin(case)
        known = records.rows.get(case.name)
        try:
            fingerprint = case.fingerprint()
            if known is not None and known.fingerprint == fingerprint:
                reused += 1
            else:
                values, note = _measure_one(source.images(case), scorers, border)
                records.add(Row(case.name, values, note, fingerprint))
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            failed[case.name] = " ".join(str(error).split()) or type(error).__name__
            records.rows.pop(case.name, None)
        end(case, failed.get(case.name))
    names = [case.name for case in source.cases]
    rows = [records.rows[name] for name in names if name in records.rows]
    notes: dict[str, list[str]] = {}
    for row in rows:
        for note in row.note.splitlines():
            notes.setdefault(note, []).append(row.name)
    summary = {
        "settings": settings_of(source, metrics, border),
        "complete": True,
        "images": len(rows),
        "reused": reused,
        "failed": failed,
        "metrics": {
            m.name: {
                "higher_is_better": m.higher_is_better,
                "convention": m.convention,
                "computed_by": "linearsr" if m.pyiqa_name is None else f"pyiqa {m.pyiqa_name}",
                **statistics_of([row.values.get(m.name) for row in rows]),
            }
            for m in metrics
            if m.name in scorers
        },
        "not_available": unavailable,
        "notes": notes,
    }
    records.finish(names, summary)
    return summary


def settings_of(source: Source, metrics: Sequence[Metric], border: int) -> dict[str, Any]:
    """Return what the values depend on besides the measured files, ready for JSON."""
    return {
        "linearsr": __version__,
        "metrics": [metric.name for metric in metrics],
        "border": border,
        **source.settings,
    }


def scorers_of(metrics: Sequence[Metric], device: torch.device) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Return the scorers by metric name, and the reasons by name of the metrics that are not available."""
    scorers: dict[str, Scorer] = {}
    unavailable: dict[str, str] = {}
    for metric in metrics:
        try:
            scorers[metric.name] = metric.scorer(device)
        except NotAvailable as error:
            unavailable[metric.name] = str(error)
    return scorers, unavailable


def _measure_one(
    images: Images, scorers: dict[str, Scorer], border: int
) -> tuple[dict[str, float | None], str]:
    """Return the values by metric, and one line for each that is None with the reason."""
    image, reference = (None if pixels is None else _tensor(pixels, border) for pixels in images)
    assert image is not None
    values: dict[str, float | None] = {}
    notes = []
    for name, scorer in scorers.items():
        try:
            values[name] = scorer(image, reference)
        except (ValueError, RuntimeError, AssertionError) as error:
            values[name] = None
            notes.append(f"{name}: {' '.join(str(error).split())}")
    return values, "\n".join(notes)


def statistics_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Return statistics of the finite values, and the number of infinite ones (PSNR of equal images)."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "mean": fmean(finite) if finite else None,
        "median": median(finite) if finite else None,
        "std": stdev(finite) if len(finite) > 1 else None,
        "min": min(finite, default=None),
        "max": max(finite, default=None),
        "count": len(finite),
        "infinite": sum(value is not None and math.isinf(value) for value in values),
    }


def remarks(summary: dict[str, Any]) -> list[str]:
    """Return one line for each thing missing from a summary's figures, with the reason."""
    by_remedy: dict[str, list[str]] = {}
    for name, remedy in summary["not_available"].items():
        by_remedy.setdefault(remedy, []).append(name)
    lines = [f"not available: {', '.join(names)}: {remedy}" for remedy, names in by_remedy.items()]
    for note, names in summary["notes"].items():
        lines.append(f"not measured on {_count(len(names))}: {note}")
    for name, found in summary["metrics"].items():
        if found["infinite"]:
            lines.append(f"{name}: {_count(found['infinite'])} equal to the HR image, not in the mean")
    if summary["reused"]:
        lines.append(f"measured in an earlier run: {_count(summary['reused'])}")
    if summary["failed"]:
        names = ", ".join(list(summary["failed"])[:3]) + (", ..." if len(summary["failed"]) > 3 else "")
        lines.append(f"failed, and not in the figures: {_count(len(summary['failed']))}: {names}")
    return lines


def _count(images: int) -> str:
    return f"{images:,} image{'' if images == 1 else 's'}"


def _tensor(pixels: Pixels, border: int) -> Tensor:
    """Cut the border off (H, W, 3) -> (1, 3, h, w) float64 in [0, 1]. Raises ValueError if none is left."""
    height, width = pixels.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(f"{width}x{height}: nothing is left within a border of {border} pixels")
    inner = pixels[border : height - border, border : width - border]
    return torch.from_numpy(inner.copy()).permute(2, 0, 1)[None].double() / 255
