"""The partition of the trajectory t in [0, 1] into spans, one per expert (arXiv 2510.08771)."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from linearsr.flow.path import log_snr, time_from_log_snr

_PUBLISHED_NAMES = ("structure generation", "structure refinement", "texture generation", "detail polishing")


def bisect(lambda_min: float, lambda_max: float, anchor: float, levels: int = 2) -> tuple[float, ...]:
    """Bisect a range of log-SNR hierarchically; return its 2**levels - 1 boundaries, rising in time.

    The range is the effective one. `anchor`, a time inside it, splits it into a noisy and a clean half; each
    further level halves every part at its midpoint in log-SNR. [-7.044, 8.885] with the anchor 0.875 gives
    the published 0.223, 0.875, 0.939. Raises ValueError if the anchor lies outside the range or `levels` is
    below 1.
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
    """The times at which one expert hands over to the next; without boundaries, one expert has all times.

    `boundaries` must rise strictly inside (0, 1), else ValueError is raised. Experts are numbered from noise
    to image: expert 0 has the times above the last boundary. A boundary belongs to the cleaner side, so spans
    are (low, high], and the last expert also has t = 0: every t in [0, 1] has exactly one expert.
    """

    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(low < high for low, high in pairwise((0.0, *self.boundaries, 1.0))):
            raise ValueError(f"boundaries {self.boundaries} must rise strictly inside (0, 1)")

    @property
    def num_experts(self) -> int:
        """The number of experts, one more than the boundaries."""
        return len(self.boundaries) + 1

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each expert; for four experts, the names of the paper."""
        if self.num_experts == len(_PUBLISHED_NAMES):
            return _PUBLISHED_NAMES
        return tuple(f"expert {i}" for i in range(self.num_experts))

    def expert(self, t: float) -> int:
        """Return the index of the expert for time `t` in [0, 1]. Raises ValueError outside."""
        if not 0 <= t <= 1:
            raise ValueError(f"time {t} is outside [0, 1]")
        return len(self.boundaries) - bisect_left(self.boundaries, t)

    def span(self, index: int) -> tuple[float, float]:
        """Return the times (low, high] of expert `index`. Raises IndexError if there is no such expert."""
        if not 0 <= index < self.num_experts:
            raise IndexError(f"expert {index} does not exist: the partition has {self.num_experts}")
        edges = (0.0, *self.boundaries, 1.0)
        low = len(self.boundaries) - index
        return edges[low], edges[low + 1]


PUBLISHED = Partition((0.223, 0.875, 0.939))
"""The four spans of the paper."""


def common_direction(similarity: NDArray[np.float64], edges: Sequence[int]) -> float:
    """Return how far members agree with their part: the mean over members of |mean direction of the part|^2.

    For unit directions g_i with inner products S, a part P has |mean g|^2 = sum of S over P x P / |P|^2. This
    is what a member gains from a step of its part, as a share of its gain from a step of its own: 1 when all
    members agree, 1 / |P| when they have nothing in common.

    Args:
        similarity: S, (n, n), symmetric with ones on the diagonal.
        edges: where parts begin and end, rising from 0 to n: part k is edges[k], ..., edges[k + 1] - 1.
    """
    agreeing = (
        similarity[low:high, low:high].sum() / (high - low) for low, high in pairwise(edges) if low < high
    )
    return float(sum(agreeing)) / len(similarity)


def best_parts(similarity: NDArray[np.float64], parts: int) -> list[int]:
    """Return the edges of the `parts` contiguous parts that agree most within (`common_direction`).

    Dynamic programming finds the best split; of equally good ones, one with early edges is taken. Interval
    clustering by gradients is due to Go et al. 2023 (arXiv 2306.00354); the measure is ours.

    Raises:
        ValueError: fewer than one part, or more parts than members.
    """
    members = len(similarity)
    if not 1 <= parts <= members:
        raise ValueError(f"{members} members cannot be split into {parts} parts")
    sums = np.pad(similarity.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    corner = np.diag(sums)
    lengths = np.subtract.outer(np.arange(members + 1), np.arange(members + 1)).T
    # gain[low, high]: agreement of the part low, ..., high - 1, times its length
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
    """Return the partition that splits rising `log_snrs` at `edges`, midway between neighbours."""
    middles = [(log_snrs[edge - 1] + log_snrs[edge]) / 2 for edge in edges[1:-1]]
    return Partition(tuple(time_from_log_snr(middle) for middle in reversed(middles)))


def edges_of(partition: Partition, log_snrs: Sequence[float]) -> list[int]:
    """Return the edges at which `partition` splits rising `log_snrs`; an empty span is an empty part."""
    experts = [partition.expert(time_from_log_snr(lam)) for lam in log_snrs]
    return [sum(expert < index for expert in experts) for index in range(partition.num_experts + 1)]


def equal_in_time(experts: int) -> Partition:
    """Return spans of equal length in t."""
    return Partition(tuple(i / experts for i in range(1, experts)))


def equal_in_log_snr(experts: int, lambda_min: float, lambda_max: float) -> Partition:
    """Return spans of equal length in log-SNR; the outer ones extend to pure noise and the image."""
    step = (lambda_max - lambda_min) / experts
    return Partition(tuple(time_from_log_snr(lambda_max - i * step) for i in range(1, experts)))
