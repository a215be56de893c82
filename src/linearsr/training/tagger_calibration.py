"""From scores to a choice: which tags a tagger offers, and from which score on."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from linearsr.evaluation.tagging import average_precisions
from linearsr.guidance.own_tagger import OwnTagger

_LEAST_GAIN = 0.15
"""A tag is offered if its average precision is at least so much of the way from that of constant scores to 1."""
_LEAST_PHOTOS = 3
"""Photos that must have a tag, for less say nothing of it."""
_BETA = 0.5
"""Weight of recall over precision in the F-measure: a wrong tag does more harm than a missing one."""


@torch.inference_mode()
def calibrated(tagger: OwnTagger, samples: Iterable[tuple[Tensor, Tensor]], versions: int) -> OwnTagger:
    """The same network with thresholds from photos that it was not trained on.

    Args:
        tagger: in evaluation mode.
        samples: (lr (3, c, c), tags (V,)), `versions` of each photo after another.
        versions: how often each photo is among them.

    Returns:
        A tagger that offers the tags it tells from chance, from the score on that gives all of them together the best
        F-measure. A score for each tag, found in the few photos that have it, did worse on other photos.
    """
    pairs = [(tagger(lr[None])[0].sigmoid(), tags) for lr, tags in samples]
    scores, labels = (torch.stack(column) for column in zip(*pairs, strict=True))
    chance, photos = labels.mean(dim=0), labels.sum(dim=0) / versions
    gains = (average_precisions(scores, labels) - chance) / (1 - chance)
    offered = (gains >= _LEAST_GAIN) & (photos >= _LEAST_PHOTOS)
    threshold = (
        best_threshold(scores[:, offered].flatten(), labels[:, offered].flatten()) if offered.any() else 0
    )
    thresholds = tuple(threshold if offer else None for offer in offered.tolist())
    return OwnTagger.from_state(replace(tagger.config, thresholds=thresholds), tagger.state_dict(), "tagger")


def best_threshold(scores: Tensor, labels: Tensor, beta: float = _BETA) -> float:
    """The score, of (N,), from which on a tag is given with the highest F-measure; labels (N,) are 0 or 1."""
    order = scores.argsort(descending=True, stable=True)
    given = torch.arange(1, len(scores) + 1)
    measure = (1 + beta**2) * labels[order].cumsum(0) / (given + beta**2 * labels.sum())
    # of equal scores all are given or none
    ranked = scores[order]
    last = torch.cat([ranked[1:] < ranked[:-1], torch.tensor([True])])
    return float(ranked[(measure * last).argmax()])
