"""An evaluation from beginning to end: measure image by image, then sum up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linearsr._version import __version__
from linearsr.evaluation import external
from linearsr.evaluation.external import NotAvailable
from linearsr.evaluation.records import Records, Row
from linearsr.evaluation.registry import Metric
from linearsr.evaluation.sources import Case, Images, Pixels, Source
from linearsr.evaluation.summary import described, notes_of, statistics_of

Scorer = Callable[[Tensor, Tensor | None], float]


@dataclass
class Progress:
    """What happened on the way."""

    reused: int = 0
    """Images measured in an earlier run."""
    changed: list[str] = field(default_factory=list)
    """Images measured again because their files have changed since."""
    failed: dict[str, str] = field(default_factory=dict)
    """Image -> why it could not be read or made."""


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
    """Measure every image of `source` that `records` does not hold yet, one at a time, and sum up.

    Args:
        border: pixels that are cut off at each side of an image and of its reference first.
        device: where metrics with networks compute.
        begin, end: called around each image; `end` with the reason if it could not be read or made.

    Returns:
        The summary, ready for JSON: settings, metrics, what could not be had, what failed.
    """
    scorers, unavailable = scorers_of(metrics, device or torch.device("cpu"))
    progress = Progress()
    for case in source.cases:
        begin(case)
        try:
            _measure_one(case, source, scorers, records, border, progress)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            progress.failed[case.name] = reason
            records.rows.pop(case.name, None)
        end(case, progress.failed.get(case.name))
    names = [case.name for case in source.cases]
    rows = [records.rows[name] for name in names if name in records.rows]
    found = {
        m.name: statistics_of([row.values.get(m.name) for row in rows]) for m in metrics if m.name in scorers
    }
    for metric in metrics:
        if metric.kind == "set" and metric.name not in unavailable:
            try:
                found[metric.name] = _of_the_sets(metric, source, device or torch.device("cpu"))
            except NotAvailable as error:
                unavailable[metric.name] = str(error)
    summary = {
        "settings": settings_of(source, metrics, border),
        "complete": True,
        "images": len(rows),
        "reused": progress.reused,
        "changed": progress.changed,
        "failed": progress.failed,
        "metrics": {m.name: {**described(m), **found[m.name]} for m in metrics if m.name in found},
        "not_available": unavailable,
        "not_asked_for": [],
        "notes": notes_of(rows),
    }
    records.finish(names, summary)
    return summary


def settings_of(source: Source, metrics: Sequence[Metric], border: int) -> dict[str, Any]:
    """What values depend on beside the files that are measured."""
    return {
        "linearsr": __version__,
        "metrics": [metric.name for metric in metrics],
        "border": border,
        **source.settings,
    }


def scorers_of(metrics: Sequence[Metric], device: torch.device) -> tuple[dict[str, Scorer], dict[str, str]]:
    """What computes each metric of single images, by name, and why others cannot be had.

    A scorer takes an image and its reference, (1, 3, H, W) float64 in [0, 1], and raises ValueError for one that it
    cannot judge.
    """
    scorers: dict[str, Scorer] = {}
    unavailable: dict[str, str] = {}
    for metric in metrics:
        if metric.compute is not None:
            scorers[metric.name] = partial(_computed, metric)
        elif metric.kind == "set":
            if (remedy := external.missing()) is not None:
                unavailable[metric.name] = remedy
        else:
            try:
                network = external.load_metric(metric, device)
            except NotAvailable as error:
                unavailable[metric.name] = str(error)
            else:
                scorers[metric.name] = partial(external.score, network, metric)
    return scorers, unavailable


def _measure_one(
    case: Case,
    source: Source,
    scorers: dict[str, Scorer],
    records: Records,
    border: int,
    progress: Progress,
) -> None:
    fingerprint = case.fingerprint()
    known = records.rows.get(case.name)
    if known is not None and known.fingerprint == fingerprint:
        progress.reused += 1
        return
    if known is not None:
        progress.changed.append(case.name)
    image, reference = _tensors(source.images(case), border)
    values: dict[str, float | None] = {}
    notes = []
    for name, scorer in scorers.items():
        try:
            values[name] = scorer(image, reference)
        except (ValueError, RuntimeError, AssertionError) as error:
            values[name] = None
            notes.append(f"{name}: {' '.join(str(error).split())}")
    records.add(Row(case.name, values, "\n".join(notes), fingerprint))


def _computed(metric: Metric, image: Tensor, reference: Tensor | None) -> float:
    assert metric.compute is not None
    inputs = (image,) if reference is None or metric.kind == "no-reference" else (image, reference)
    return metric.compute(*inputs)


def _of_the_sets(metric: Metric, source: Source, device: torch.device) -> dict[str, Any]:
    if source.results is None or source.references is None:
        raise NotAvailable("compares folders: keep the results with -o")
    network = external.load_metric(metric, device)
    try:
        value = external.score_folders(network, source.results, source.references)
    except Exception as error:  # anything that goes wrong in there costs this metric alone
        raise NotAvailable(f"pyiqa: {' '.join(str(error).split()) or type(error).__name__}") from error
    return {**statistics_of([value]), "count": len(source.cases)}


def _tensors(images: Images, border: int) -> tuple[Tensor, Tensor | None]:
    return _tensor(images.result, border), (
        None if images.reference is None else _tensor(images.reference, border)
    )


def _tensor(pixels: Pixels, border: int) -> Tensor:
    """(H, W, 3) -> (1, 3, H - 2 border, W - 2 border) float64 in [0, 1]. Raises ValueError if nothing is left."""
    height, width = pixels.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(f"{width}x{height}: nothing is left within a border of {border} pixels")
    inner = pixels[border : height - border, border : width - border]
    return torch.from_numpy(inner.copy()).permute(2, 0, 1)[None].double() / 255
