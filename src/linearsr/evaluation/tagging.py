"""How well scores rank tags: average precision."""

import torch
from torch import Tensor


def average_precisions(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of each tag over the photos.

    Of tags whose scores are the same for all photos it is the share of photos that have the tag: what one reaches who
    knows no more than how frequent tags are. Transposed, photos are rated by how well they rank the tags.

    Args:
        scores: (N photos, V tags).
        labels: (N, V), 1 for the tags of a photo and 0 for the others.

    Returns:
        (V,) from 0 to 1; NaN for tags that no photo has.
    """
    from torchmetrics.functional.classification import binary_average_precision

    values = [
        binary_average_precision(score, label.int()) if label.any() else torch.tensor(torch.nan)
        for score, label in zip(scores.T.contiguous(), labels.T.contiguous(), strict=True)
    ]
    return torch.stack(values)


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean of `average_precisions` over the tags that some photo has; arguments as there."""
    return float(average_precisions(scores, labels).nanmean())
