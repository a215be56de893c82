"""Metrics of `pyiqa`, if it is installed. Its licence forbids commercial use, so nothing here depends on it."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.evaluation.registry import Metric

REMEDY = "pip install 'linearsr[iqa]' (pyiqa: not for commercial use; fetches weights when first used)"


class NotAvailable(Exception):
    """One line: why a metric cannot be had here, and how to get it."""


def missing() -> str | None:
    """How to get `pyiqa`, or None if it is installed. Does not import it."""
    return REMEDY if find_spec("pyiqa") is None else None


def load_metric(metric: Metric, device: torch.device) -> Callable[..., Any]:
    """What `pyiqa` computes the metric with; it may download weights.

    Raises:
        NotAvailable: it is not installed, or cannot be imported, or its weights cannot be had.
    """
    if (remedy := missing()) is not None:
        raise NotAvailable(remedy)
    try:
        created: Callable[..., Any] = import_module("pyiqa").create_metric(metric.pyiqa_name, device=device)
    except Exception as error:  # whatever keeps it from working is no reason to lose the other metrics
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NotAvailable(f"pyiqa cannot give {metric.pyiqa_name!r} here: {reason}") from error
    return created


def score(network: Callable[..., Any], metric: Metric, image: Tensor, reference: Tensor | None) -> float:
    """One image's value; (1, 3, H, W) in [0, 1] of any floating type."""
    inputs = [image] if metric.kind == "no-reference" or reference is None else [image, reference]
    with torch.inference_mode():
        return float(network(*(x.float() for x in inputs)))


def score_folders(network: Callable[..., Any], results: Path, references: Path) -> float:
    """The value of a metric between two sets of images."""
    return float(network(str(results), str(references)))
