"""The split of the trajectory t in [0, 1] into spans, one for each expert (arXiv 2510.08771)."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from linearsr.flow.path import log_snr, time_from_log_snr

_PUBLISHED_NAMES = ("structure generation", "structure refinement", "texture generation", "detail polishing")


def bisect(lambda_min: float, lambda_max: float, anchor: float, levels: int = 2) -> tuple[float, ...]:
    """Hierarchical bisection of an effective range of log-SNR: its 2**levels - 1 boundaries, rising in time.

    `anchor`, a time inside the range, splits it into a noisy and a clean half; at each further level every
    part is halved at its midpoint in log-SNR. [-7.044, 8.885] with the anchor 0.875 gives the published
    0.223, 0.875, 0.939. Raises ValueError when the anchor lies outside the range or `levels` is below 1.
    """
    if levels < 1:
        raise ValueError(f"levels must be 1 or more, not {levels}")
    middle = log_snr(anchor)
    if not lambda_min < middle < lambda_max:
        raise ValueError(f"anchor {anchor} has log-SNR {middle:.3f}, outside ({lambda_min}, {lambda_max})")
    edges = [lambda_max, middle, lambda_min]
    for _ in range(levels - 1):
        halves = [(high + low) / 2 for high, low in pairwise(edges)]
        edges = [edges[0], *(lam for pair in zip(halves, edges[1:], strict=True) for lam in pair)]
    return tuple(anchor if lam == middle else time_from_log_snr(lam) for lam in edges[1:-1])


@dataclass(frozen=True)
class Partition:
    """The times at which one expert hands over to the next; no boundaries means one expert for all.

    `boundaries` rise strictly inside (0, 1), else ValueError. Experts are counted from noise to image: expert
    0 has the times above the last boundary. A boundary itself belongs to the cleaner side, so spans are (low,
    high], and the last expert also has t = 0: every t in [0, 1] has exactly one expert.
    """

    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(low < high for low, high in pairwise((0.0, *self.boundaries, 1.0))):
            raise ValueError(f"boundaries {self.boundaries} must rise strictly inside (0, 1)")

    @property
    def num_experts(self) -> int:
        """One more than the boundaries."""
        return len(self.boundaries) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each expert; those of the paper when there are four."""
        if self.num_experts == len(_PUBLISHED_NAMES):
            return _PUBLISHED_NAMES
        return tuple(f"expert {i}" for i in range(self.num_experts))

    def expert(self, t: float) -> int:
        """The index of the expert for time `t` in [0, 1]; ValueError outside."""
        if not 0 <= t <= 1:
            raise ValueError(f"time {t} is outside [0, 1]")
        return len(self.boundaries) - bisect_left(self.boundaries, t)

    def span(self, index: int) -> tuple[float, float]:
        """The times (low, high] of expert `index`; IndexError when there is no such expert."""
        if not 0 <= index < self.num_experts:
            raise IndexError(f"expert {index} does not exist: the partition has {self.num_experts}")
        edges = (0.0, *self.boundaries, 1.0)
        low = len(self.boundaries) - index
        return edges[low], edges[low + 1]


PUBLISHED = Partition((0.223, 0.875, 0.939))
"""The four spans of the paper."""


def common_direction(similarity: NDArray[np.float64], edges: Sequence[int]) -> float:
    """How far the members of each part agree: mean over all members of the squared mean direction of their part.

    For directions g_i of length one, and S their inner products, a part P has |mean g|^2 = sum of S over P x P / |P|^2.
    It is the share of what every member would gain from a step of its own that it gains from the step of its part: 1
    when all members agree, 1 / |P| when they have nothing in common.

    Args:
        similarity: S, (n, n), symmetric with ones on the diagonal.
        edges: where parts begin and end, rising from 0 to n: part k is edges[k], ..., edges[k + 1] - 1.
    """
    agreeing = (
        similarity[low:high, low:high].sum() / (high - low) for low, high in pairwise(edges) if low < high
    )
    return float(sum(agreeing)) / len(similarity)


def best_parts(similarity: NDArray[np.float64], parts: int) -> list[int]:
    """The edges of the `parts` contiguous parts that agree most within themselves (`common_direction`).

    By dynamic programming, so there is no better split; of equally good ones, one with early edges is taken.
    Interval clustering by gradients is due to Go et al. 2023 (arXiv 2306.00354); the measure is ours.

    Raises:
        ValueError: fewer than one part, or more parts than members.
    """
    members = len(similarity)
    if not 1 <= parts <= members:
        raise ValueError(f"{members} members cannot be split into {parts} parts")
    sums = np.pad(similarity.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corner = np.diag(sums)
    lengths = np.subtract.outer(np.arange(members + 1), np.arange(members + 1)).T
    # gain[low, high]: of the part low, ..., high - 1
    inside = corner[:, None] + corner - sums - sums.T
    gain = np.where(lengths > 0, inside / np.maximum(lengths, 1), -np.inf)
    best, last_begins = gain[0], []
    for _ in range(parts - 1):
        candidates = best[:, None] + gain
        last_begins.append(candidates.argmax(axis=0))
        best = candidates.max(axis=0)
    edges = [members]
    for begins in reversed(last_begins):
        edges.append(int(begins[edges[-1]]))
    return [0, *reversed(edges)]


def partition_at(log_snrs: Sequence[float], edges: Sequence[int]) -> Partition:
    """The partition whose spans hold the parts `edges` of rising `log_snrs`: boundaries lie midway between members."""
    middles = [(log_snrs[edge - 1] + log_snrs[edge]) / 2 for edge in edges[1:-1]]
    return Partition(tuple(time_from_log_snr(middle) for middle in reversed(middles)))


def edges_of(partition: Partition, log_snrs: Sequence[float]) -> list[int]:
    """The parts into which `partition` splits rising `log_snrs`, as edges; a span without members is an empty part."""
    experts = [partition.expert(time_from_log_snr(lam)) for lam in log_snrs]
    return [sum(expert < index for expert in experts) for index in range(partition.num_experts + 1)]


def equal_in_time(experts: int) -> Partition:
    """Spans of one length in t."""
    return Partition(tuple(i / experts for i in range(1, experts)))


def equal_in_log_snr(experts: int, lambda_min: float, lambda_max: float) -> Partition:
    """Spans of one length in log-SNR between the two bounds; the outer ones reach on to pure noise and the image."""
    step = (lambda_max - lambda_min) / experts
    return Partition(tuple(time_from_log_snr(lambda_max - i * step) for i in range(1, experts)))
