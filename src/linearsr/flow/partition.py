"""The split of the trajectory t in [0, 1] into spans, one for each expert (arXiv 2510.08771)."""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from linearsr.flow.snr import log_snr, time_from_log_snr

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
