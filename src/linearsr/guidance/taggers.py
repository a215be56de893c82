"""From scores to tags: what every tagger does last."""

from collections.abc import Sequence

from torch import Tensor

from linearsr.guidance.base import Tag


def best_tags(
    scores: Tensor,
    names: Sequence[str],
    own_thresholds: float | Sequence[float],
    own_max_tags: int,
    *,
    threshold: float | None = None,
    max_tags: int | None = None,
) -> list[Tag]:
    """The tags that score at least their threshold, the surest first, at most so many.

    Args:
        scores: (V,), from 0 to 1.
        names: the V tags.
        own_thresholds: the tagger's, one for all or one for each tag.
        own_max_tags: the tagger's number.
        threshold, max_tags: what the caller asks for instead.

    Raises:
        ValueError: a threshold outside 0 to 1, or a negative number.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold:g} is out of range: choose from 0 to 1")
    most = own_max_tags if max_tags is None else max_tags
    if most < 0:
        raise ValueError(f"{most} tags: at least 0 can be asked for")
    limits = scores.new_tensor(own_thresholds if threshold is None else threshold).expand_as(scores)
    order = scores.argsort(descending=True, stable=True).tolist()
    kept = [number for number in order if scores[number] >= limits[number]]
    return [Tag(names[number], float(scores[number])) for number in kept[:most]]
