"""From the values of single images to what is said of all of them."""

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import Any

from linearsr.evaluation.records import Row
from linearsr.evaluation.registry import Metric


def statistics_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Of the finite values; of those that are not (PSNR of equal images) the number."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "mean": fmean(finite) if finite else None,
        "median": median(finite) if finite else None,
        "std": stdev(finite) if len(finite) > 1 else None,
        "min": min(finite, default=None),
        "max": max(finite, default=None),
        "count": len(finite),
        "infinite": sum(value is not None and math.isinf(value) for value in values),
        "unmeasured": sum(value is None or math.isnan(value) for value in values),
    }


def described(metric: Metric) -> dict[str, Any]:
    """What a reader of the figures must know of the metric."""
    return {
        "kind": metric.kind,
        "higher_is_better": metric.higher_is_better,
        "convention": metric.convention,
        "computed_by": "linearsr" if metric.pyiqa_name is None else f"pyiqa {metric.pyiqa_name}",
    }


def notes_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Why something was not measured -> the images."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        for note in row.note.splitlines():
            notes.setdefault(note, []).append(row.name)
    return notes


def number(value: float | None) -> str:
    """Five significant digits, a dash for none."""
    return "-" if value is None else f"{value:.5g}"


def remarks(summary: dict[str, Any]) -> list[str]:
    """What is missing from a summary's figures, and why, one line each."""
    by_remedy: dict[str, list[str]] = {}
    for name, remedy in summary["not_available"].items():
        by_remedy.setdefault(remedy, []).append(name)
    lines = [f"not available: {', '.join(names)}: {remedy}" for remedy, names in by_remedy.items()]
    if summary["not_asked_for"]:
        lines.append(f"not asked for: {', '.join(summary['not_asked_for'])}: --metrics all measures them")
    for note, names in summary["notes"].items():
        lines.append(f"not measured on {_count(len(names))}: {note}")
    for name, found in summary["metrics"].items():
        if found["infinite"]:
            lines.append(f"{name}: {_count(found['infinite'])} equal to the HR image, not in the mean")
    if summary["reused"]:
        lines.append(f"measured in an earlier run: {_count(summary['reused'])}")
    if summary["changed"]:
        lines.append(f"measured again, for the files have changed: {_count(len(summary['changed']))}")
    if summary["failed"]:
        names = ", ".join(list(summary["failed"])[:3]) + (", ..." if len(summary["failed"]) > 3 else "")
        lines.append(f"failed, and not in the figures: {_count(len(summary['failed']))}: {names}")
    return lines


def _count(images: int) -> str:
    return f"{images:,} image{'' if images == 1 else 's'}"
