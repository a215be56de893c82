"""The distribution of the training times t in (0, 1], on the whole trajectory or on one expert's span."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from linearsr.training.section import Section


class TimeLaw(Section):
    """Distribution of the training times, before it is restricted to a span.

    `logit_normal` is sigmoid(N(mean, std)) (arXiv 2403.03206, eq. 19). `shift` s then moves either law to
    more noise: t' = s t / (1 + (s - 1) t) (ibid., eq. 23). SANA uses logit_normal, mean 0, std 1, shift 3.
    """

    law: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0
    """Mean of the logit of t; used by `logit_normal` only."""
    std: float = Field(1.0, gt=0)
    """Standard deviation of the logit of t; used by `logit_normal` only."""
    shift: float = Field(1.0, gt=0)

    def draw(self, uniform: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Map uniform numbers in [0, 1) to times in (low, high], quantiles of the law within the span."""
        edges = self._probability(torch.tensor([low, high], dtype=torch.float64))
        # from the upper end, so that a uniform number of exactly 0 gives `high`, never a time of 0
        quantile = edges[1] - uniform.double() * (edges[1] - edges[0])
        return self._quantile(quantile).clamp(low, high).float()

    def _probability(self, t: Tensor) -> Tensor:
        """Return the cumulative distribution at times t."""
        plain = t / (self.shift - (self.shift - 1) * t)
        if self.law == "uniform":
            return plain
        standard: Tensor = torch.special.ndtr((torch.logit(plain) - self.mean) / self.std)
        return standard

    def _quantile(self, probability: Tensor) -> Tensor:
        plain = probability
        if self.law == "logit_normal":
            plain = torch.sigmoid(self.mean + self.std * torch.special.ndtri(probability))
        return self.shift * plain / (self.shift * plain + (1 - plain))
