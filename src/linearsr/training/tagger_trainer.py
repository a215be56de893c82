"""What a run of the tagger stage does otherwise: whole photos, average precision, at the end the choice of tags."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from linearsr.evaluation.tagging import average_precisions, mean_average_precision
from linearsr.guidance.own_tagger import OwnTagger
from linearsr.images.degradation_choice import label
from linearsr.training.config import TrainConfig
from linearsr.training.objective import Batch
from linearsr.training.run_log import Report
from linearsr.training.tagger import TaggerObjective, TaggerStage
from linearsr.training.tagger_data import TagSamples
from linearsr.training.trainer import Trainer
from linearsr.training.validation import Pictures, Validation

_LEAST_GAIN = 0.15
"""A tag is offered if its average precision is at least so much of the way from that of constant scores to 1."""
_LEAST_PHOTOS = 3
"""Photos that must have a tag, for less say nothing of it."""
_BETA = 0.5
"""Weight of recall over precision in the F-measure: a wrong tag does more harm than a missing one."""


class TagValidation(Validation):
    """The photos of a run, and the mean average precision of a tagger over them; the same on every process."""

    def __init__(self, validation: Validation) -> None:
        self.config, self.objective = validation.config, validation.objective
        self.accelerator, self.pairs, self.tags = validation.accelerator, validation.pairs, validation.tags

    @torch.no_grad()
    def run(self, network: nn.Module, show: Pictures) -> dict[str, float]:
        """Mean average precision by "degradation/tags/map"; there are no pictures to show."""
        was_training = network.training
        network.eval()
        device = self.accelerator.device
        metrics = {}
        for degradation in self.config.degradations:
            lrs = [lr for name, _, _, lr, _ in self.pairs if name == degradation]
            batches = [Batch(lr[None].to(device), lr.new_empty(0), lr.new_empty(0), [0]) for lr in lrs]
            scores = [self.objective.predict(network, batch)["tags"].cpu() for batch in batches]
            precision = mean_average_precision(torch.cat(scores), torch.stack(self.tags))
            metrics[f"{label(degradation)}/tags/map"] = round(precision, 4)
        network.train(was_training)
        return metrics


class TaggerTrainer(Trainer):
    """One run of the tagger stage; arguments as for `Trainer`."""

    objective: TaggerObjective

    def __init__(self, config: TrainConfig, report: Report | None = None) -> None:
        assert isinstance(config.stage, TaggerStage)
        self.stage = config.stage
        super().__init__(config, report)

    def _run(self, validation: Validation) -> Path:
        photo_tags = self._photo_tags()
        assert photo_tags is not None  # as was checked before the run
        self.samples = TagSamples(
            self.config.data,
            self.objective.scale,
            self.config.seed,
            self._total_images,
            photo_tags,
            side=self.objective.network.config.image_size,
            versions=self.stage.versions,
            augmentation=self.stage.augmentation,
            held_out=self.stage.held_out,
        )
        self.pairs = self.samples
        return super()._run(TagValidation(validation))

    def _complete(self, folder: Path) -> None:
        tagger = OwnTagger.from_pretrained(folder / "tagger")
        calibrated(tagger, self.samples.held_out(), self.stage.versions).save_pretrained(folder / "tagger")


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
