"""What a run of the tagger stage does otherwise: whole photos, average precision, thresholds in the end."""

from pathlib import Path

import torch
from torch import nn

from linearsr.evaluation.tagging import mean_average_precision
from linearsr.guidance.own_tagger import OwnTagger
from linearsr.images.degradation_choice import label
from linearsr.training.config import TrainConfig
from linearsr.training.objective import Batch
from linearsr.training.run_log import Report
from linearsr.training.tagger import TaggerObjective, TaggerStage
from linearsr.training.tagger_calibration import calibrated
from linearsr.training.tagger_data import TagSamples
from linearsr.training.trainer import Trainer
from linearsr.training.validation import Pictures, Validation


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
