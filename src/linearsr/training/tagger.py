"""The stage that trains a tagger: degraded photos in, the tags of the clean photos out.

So the tagger says of a bad photo what it would say of a good one, as the degradation-aware prompt extractor of SeeSR
does (arXiv 2311.16518), which learns from a tagger of clean photos; ours learns from tags themselves.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.training.objective import Batch, Objective, Part
from linearsr.training.photo_tags import read_vocabulary
from linearsr.training.section import Section
from linearsr.training.tagger_data import Augmentation

_SET_BY_THE_STAGE = ("vocabulary", "thresholds")


class TaggerStage(Section):
    """Train an `OwnTagger` on the tags of `data.tags`."""

    kind: Literal["tagger"]
    vocabulary: Path
    """Text file with known tags, one a line."""
    tagger: dict[str, Any] = Field({})
    """Fields of `OwnTaggerConfig` that differ from its defaults."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Of the pooled features."""
    augmentation: Augmentation = Augmentation()
    versions: int = Field(8, gt=0)
    """How often each photo is degraded; samples are made from these versions."""
    held_out: float = Field(0.15, gt=0, lt=1)
    """Share of the photos, chosen by their names, that are kept from training: they decide which tags are offered, and
    from which score on."""

    @model_validator(mode="after")
    def _fits(self) -> "TaggerStage":
        for key in _SET_BY_THE_STAGE:
            if key in self.tagger:
                raise ValueError(f"tagger: {key} is found out by the stage: leave it out")
        try:
            OwnTaggerConfig(**self.tagger)
        except (TypeError, ValueError) as error:
            raise ValueError(f"tagger: {error}") from None
        return self

    def objective(self, parts: object = None) -> "TaggerObjective":
        """The network with its first weights, and its loss."""
        return TaggerObjective(self)


class TaggerObjective(Objective):
    """Binary cross-entropy of every tag, summed over the vocabulary."""

    scale = 4
    multiple_of = 1
    network: OwnTagger

    def __init__(self, stage: TaggerStage) -> None:
        self.vocabulary = read_vocabulary(stage.vocabulary, "stage.vocabulary")
        config = OwnTaggerConfig(**{**stage.tagger, "vocabulary": self.vocabulary.tags})
        self.network = OwnTagger(config)
        self.dropout = stage.dropout

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = network(batch.lr, self._dropout_gains(batch.seeds).to(batch.lr.device))
        entropies = F.binary_cross_entropy_with_logits(logits, batch.tags, reduction="none")
        return {"entropy": entropies.sum(dim=1).mean()}

    def _dropout_gains(self, seeds: list[int]) -> Tensor:
        count = self.network.network.pooled_features
        draws = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return (torch.stack(draws) >= self.dropout) / (1 - self.dropout)

    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """No images, but scores (B, V) from 0 to 1, for `TagValidation`."""
        return {"tags": network(batch.lr).sigmoid()}

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        return {"tagger": cast(Part, OwnTagger.from_state(self.network.config, state, "tagger"))}
