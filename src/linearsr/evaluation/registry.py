"""All metrics by name: what each is measured on, which direction is better, and what computes it."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from linearsr.evaluation.haarpsi import LEAST_SIDE as HAARPSI_LEAST_SIDE
from linearsr.evaluation.haarpsi import haarpsi
from linearsr.evaluation.lpips import LEAST_SIDE as LPIPS_LEAST_SIDE
from linearsr.evaluation.lpips import lpips
from linearsr.evaluation.metrics import (
    MS_SSIM_LEAST_SIDE,
    SSIM_LEAST_SIDE,
    ms_ssim,
    psnr_rgb,
    psnr_y,
    ssim_rgb,
    ssim_y,
)
from linearsr.evaluation.niqe import BLOCK, niqe

Kind = Literal["full-reference", "no-reference"]
"""What a metric needs: an image and its reference, or an image alone."""

Scorer = Callable[[Tensor, Tensor | None], float]
"""Scores an image with its reference, (1, 3, H, W) float64 in [0, 1]; raises ValueError if it cannot."""

_REMEDY = "pip install 'linearsr[iqa]' (pyiqa: not for commercial use; fetches weights when first used)"


class NotAvailable(Exception):
    """Raised when a metric is not available here; one line with the reason and the remedy."""


def missing() -> str | None:
    """Return how to get `pyiqa`, None if installed. Never imports it: its licence forbids commercial use."""
    return _REMEDY if find_spec("pyiqa") is None else None


@dataclass(frozen=True)
class Metric:
    """A metric: one row of the table."""

    name: str
    kind: Kind
    higher_is_better: bool
    convention: str
    """What it is measured on, in a few words; `Y 16-235` is the luma of studio-range YCbCr."""
    compute: Callable[[Tensor, Tensor], float] | Callable[[Tensor], float] | None = None
    """(image) or (image, reference), (1, 3, H, W) float64 in [0, 1] -> value; None: `pyiqa` computes it."""
    least_side: int = 1
    """Smallest side of an image in pixels. It is not known for metrics that `pyiqa` computes."""
    pyiqa_name: str | None = None
    """Its name in `pyiqa.create_metric`: among variants, the one in OSEDiff's published evaluation script."""

    def scorer(self, device: torch.device) -> Scorer:
        """Return a function that scores single images on `device`; `pyiqa` may download weights.

        Raises NotAvailable when `pyiqa` is not installed, cannot be imported, or cannot get its weights.
        """
        compute: Callable[..., Any] | None = self.compute
        if compute is None:
            if (remedy := missing()) is not None:
                raise NotAvailable(remedy)
            try:
                compute = import_module("pyiqa").create_metric(self.pyiqa_name, device=device)
            except Exception as error:  # no failure here may stop the other metrics
                reason = " ".join(str(error).split()) or type(error).__name__
                raise NotAvailable(f"pyiqa cannot give {self.pyiqa_name!r} here: {reason}") from error

        def score(image: Tensor, reference: Tensor | None) -> float:
            inputs = [image] if reference is None or self.kind == "no-reference" else [image, reference]
            with torch.no_grad():
                return float(compute(*(x if self.compute else x.float() for x in inputs)))

        return score


_METRICS = (
    Metric("psnr_y", "full-reference", True, "Y 16-235, dB", psnr_y),
    Metric("ssim_y", "full-reference", True, "Y 16-235", ssim_y, SSIM_LEAST_SIDE),
    Metric("psnr_rgb", "full-reference", True, "RGB, dB", psnr_rgb),
    Metric("ssim_rgb", "full-reference", True, "RGB", ssim_rgb, SSIM_LEAST_SIDE),
    Metric("ms_ssim", "full-reference", True, "Y 16-235", ms_ssim, MS_SSIM_LEAST_SIDE),
    Metric("haarpsi", "full-reference", True, "YIQ", haarpsi, HAARPSI_LEAST_SIDE),
    Metric("lpips", "full-reference", False, "AlexNet, v0.1", lpips, LPIPS_LEAST_SIDE),
    Metric("niqe", "no-reference", False, "Y 16-235", niqe, 2 * BLOCK),
    Metric("lpips_vgg", "full-reference", False, "VGG, v0.1", pyiqa_name="lpips-vgg"),
    Metric("dists", "full-reference", False, "VGG", pyiqa_name="dists"),
    Metric("musiq", "no-reference", True, "KonIQ-10k", pyiqa_name="musiq"),
    Metric("maniqa", "no-reference", True, "PIPAL", pyiqa_name="maniqa-pipal"),
    Metric("maniqa_koniq", "no-reference", True, "KonIQ-10k", pyiqa_name="maniqa"),
    Metric("clipiqa", "no-reference", True, "CLIP RN50", pyiqa_name="clipiqa"),
    Metric("topiq", "no-reference", True, "KonIQ-10k", pyiqa_name="topiq_nr"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
BUILT_IN = tuple(metric for metric in _METRICS if metric.pyiqa_name is None)
"""Metrics that need no download."""


def known_metric(name: str, kinds: Collection[Kind], others: Collection[str] = ()) -> str:
    """Return `name`. Raises ValueError when no metric of these kinds has it, or it needs a missing package.

    `others` are further names that are allowed.
    """
    known = [*others, *(metric.name for metric in _METRICS if metric.kind in kinds)]
    if name not in known:
        raise ValueError(f"{name!r} is unknown: choose from {', '.join(known)}")
    if name not in others and METRICS[name].pyiqa_name is not None and (remedy := missing()) is not None:
        raise ValueError(f"{name} needs {remedy}")
    return name


def choose(names: Sequence[str] | None, has_reference: bool) -> list[Metric]:
    """Return the named metrics, in the order of the table. None selects the built-in ones, "all" every one.

    Without references, None and "all" leave out the metrics that need them.

    Raises:
        ValueError: an unknown name, a named metric that needs references without any, or no metric at all.
    """
    if names is not None:
        unknown = [name for name in names if name not in METRICS and name != "all"]
        if unknown:
            raise ValueError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}, or all")
        without = [name for name in names if name != "all" and METRICS[name].kind != "no-reference"]
        if without and not has_reference:
            raise ValueError(f"{without[0]} compares with HR images, and none are given: add HR_DIR")
    if names is None:
        names = [metric.name for metric in BUILT_IN]
    usable = [
        metric
        for name, metric in METRICS.items()
        if ("all" in names or name in names) and (has_reference or metric.kind == "no-reference")
    ]
    if not usable:
        raise ValueError("no metric is chosen: give --metrics")
    return usable
