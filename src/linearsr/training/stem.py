"""The stage that trains the base of the default model, a stem that predicts HR and its own error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.runtime.files import prefixed
from linearsr.training.objective import Batch, Objective, Part, Trained
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import ConfigError, check_fields

_LIKELIHOOD_WEIGHT = 0.01


class StemStage(Trained):
    """A stage that trains a `PredictiveStem` to predict the HR image and its own error."""

    kind: Literal["stem"]
    stem: dict[str, Any] = Field({})
    """Fields of `PredictiveStemConfig` that differ from its defaults, or from the settings of `init`."""
    init: Path | None = None
    """Folder of the stem to start from; None: from scratch. `stem` may give it more blocks and a summary;
    without these, the scale of its features stays, because flows were trained on them."""
    loss: Literal["l1", "mse"] = "l1"
    """Loss of the prediction. L1 learns faster and predicts the median of the possible HR pixels. MSE, to
    finish with, predicts their mean, which is what fidelity 1 promises."""

    @model_validator(mode="after")
    def _fits(self) -> "StemStage":
        check_fields(PredictiveStemConfig, self.stem, "stem")
        with prefixed("stem: ", ValueError, (TypeError, ValueError)):
            PredictiveStemConfig(**self.stem)
        return self

    def objective(self, parts: Parts = FROM_DISK) -> "StemObjective":
        return StemObjective(self, parts)


class StemObjective(Objective):
    """The loss of a stem: L1 or MSE for the prediction, and a Laplace likelihood for the deviation b.

    The likelihood of an error r is |r| / b + log b. log b is taken relative to the smallest possible b, so
    that no term is negative: the divergence guard compares losses by ratio.
    """

    network: PredictiveStem

    def __init__(self, stage: StemStage, parts: Parts) -> None:
        self.stage = stage
        if stage.init is not None:
            start: PredictiveStem = parts.read("stage.init", stage.init, PredictiveStem)
            with prefixed("stage.stem: ", ConfigError):
                self.network = start.grown(**stage.stem)
            if not stage.stem:
                # freeze the scale of the features: flows trained on them will go on using them
                self.network.feature_norm.momentum = 0.0
        else:
            self.network = PredictiveStem(PredictiveStemConfig(**stage.stem))
        self.scale = self.network.config.scale
        self.multiple_of = self.network.multiple_of

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        condition = network(batch.lr)
        error = (batch.hr - condition.prediction).abs()
        distance = error.mean() if self.stage.loss == "l1" else error.square().mean()
        least = self.network.config.min_deviation
        likelihood = error.detach() / condition.deviation + (condition.deviation / least).log()
        # the deviation head takes detached features, so this weight affects only its own updates
        return {self.stage.loss: distance, "likelihood": _LIKELIHOOD_WEIGHT * likelihood.mean()}

    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"mean": network(batch.lr).prediction}

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        return {"lr_stem": PredictiveStem.from_state(self.network.config, state, "lr_stem")}
