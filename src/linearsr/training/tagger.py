"""The stage that trains a tagger: degraded photos in, the tags of the clean photos out.

So the tagger says of a bad photo what it would say of a good one, as the degradation-aware prompt extractor of SeeSR
does (arXiv 2311.16518), which learns from a tagger of clean photos; ours learns from tags themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.evaluation.tagging import average_precisions, mean_average_precision
from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.images.degradation_choice import label
from linearsr.training.data import CropPairs, DataConfig
from linearsr.training.objective import Batch, Objective, Part, Trained
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.photo_tags import PhotoTags, read_vocabulary
from linearsr.training.tagger_data import Augmentation, TagSamples

_SET_BY_THE_STAGE = ("vocabulary", "thresholds")
_LEAST_GAIN = 0.15
"""A tag is offered if its average precision is at least so much of the way from that of constant scores to 1."""
_LEAST_PHOTOS = 3
"""Photos that must have a tag, for less say nothing of it."""
_BETA = 0.5
"""Weight of recall over precision in the F-measure: a wrong tag does more harm than a missing one."""


class TaggerStage(Trained):
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

    def objective(self, parts: Parts = FROM_DISK) -> "TaggerObjective":
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
        self.stage = stage

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = network(batch.lr, self._dropout_gains(batch.seeds).to(batch.lr.device))
        entropies = F.binary_cross_entropy_with_logits(logits, batch.tags, reduction="none")
        return {"entropy": entropies.sum(dim=1).mean()}

    def _dropout_gains(self, seeds: list[int]) -> Tensor:
        count = self.network.network.pooled_features
        draws = [torch.rand(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return (torch.stack(draws) >= self.stage.dropout) / (1 - self.stage.dropout)

    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """No images, but scores (B, V) from 0 to 1."""
        return {"tags": network(batch.lr).sigmoid()}

    def samples(self, data: DataConfig, seed: int, length: int, tags: PhotoTags | None) -> TagSamples:
        assert tags is not None  # as was checked before the run
        stage, side = self.stage, self.network.config.image_size
        return TagSamples(
            data,
            self.scale,
            seed,
            length,
            tags,
            side=side,
            versions=stage.versions,
            augmentation=stage.augmentation,
            held_out=stage.held_out,
        )

    def own_metrics(
        self, network: nn.Module, lrs: Mapping[str, list[Tensor]], tags: list[Tensor]
    ) -> dict[str, float]:
        """Mean average precision by "degradation/tags/map"."""
        device, found = next(network.parameters()).device, {}
        for degradation, images in lrs.items():
            scores = torch.cat([network(lr[None].to(device)).sigmoid().cpu() for lr in images])
            precision = mean_average_precision(scores, torch.stack(tags))
            found[f"{label(degradation)}/tags/map"] = round(precision, 4)
        return found

    def finish(self, folder: Path, samples: CropPairs) -> None:
        """Choose which tags are offered, by the photos that were held out."""
        assert isinstance(samples, TagSamples)
        tagger = OwnTagger.from_pretrained(folder / "tagger")
        calibrated(tagger, samples.held_out(), self.stage.versions).save_pretrained(folder / "tagger")

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        return {"tagger": cast(Part, OwnTagger.from_state(self.network.config, state, "tagger"))}


@torch.inference_mode()
def calibrated(tagger: OwnTagger, samples: Iterable[tuple[Tensor, Tensor]], versions: int) -> OwnTagger:
    """The same network with thresholds from photos that it was not trained on.

    It offers the tags it tells from chance, from the score on that gives all of them together the best F-measure. A
    score for each tag, found in the few photos that have it, did worse on other photos. `tagger` is in evaluation mode;
    `samples` are (lr (3, c, c), tags (V,)), each photo in so many `versions`.
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
