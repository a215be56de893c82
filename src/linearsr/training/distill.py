"""Few steps in the place of many: the network learns to give a whole sample at once.

A network trained by regression gives the mean of all images that fit, which is smooth, and needs many steps to decide
for one. Here its estimate is decoded to pixels and judged there: by a discriminator, which has seen photos
(adversarial distillation, Sauer et al. 2023), by formulas, and by the sample to which a teacher takes the same noise.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.func import functional_call

from linearsr.flow.experts import SNRExperts
from linearsr.flow.path import add_noise, to_sample, to_velocity
from linearsr.flow.sampler import sample
from linearsr.models.lr_stem import LRCondition
from linearsr.training.flow import FlowNetwork, FlowObjective, FlowStage
from linearsr.training.guidance import Guide
from linearsr.training.judges import FORMULAS, Discriminator, DiscriminatorConfig, l1
from linearsr.training.objective import Batch, Part, states_of_parts
from linearsr.training.parts import FROM_DISK, Parts

_ROLLOUT_STREAM = 0x0110
_HALF = 0.5


class DistillStage(FlowStage):
    """Train a transformer to give a whole sample in one evaluation, on the whole trajectory or on one expert's span."""

    kind: Literal["distill"]  # type: ignore[assignment]
    formulas: dict[str, float] = Field({"l1": 1.0})
    """Losses between the decoded sample and the HR image -> weight; see `training/judges.py`."""
    adversarial: float = Field(0.1, ge=0)
    """Of the discriminator's verdict; 0: there is no discriminator."""
    feature_matching: float = Field(0.0, ge=0)
    """Of the distance between what the discriminator sees in the sample and in the photo."""
    channels: int = Field(64, ge=8)
    """Width of the discriminator."""
    discriminator: Path | None = None
    """Start from the discriminator that another run has left in this folder."""
    teacher: Path | None = None
    """Folder of trained experts that the network learns to overtake."""
    teacher_weight: float = Field(1.0, gt=0)
    """Of the L1 distance to the teacher's sample from the same noise, where there is a teacher."""
    teacher_times: tuple[float, ...] = (1.0, 0.939, 0.875, 0.223)
    """At which times the teacher's steps begin."""
    rollout: Path | None = None
    """Network that takes the first step, from pure noise: half of the noisy inputs are then made from its estimates,
    as they are when sampling, and half from photos. None: all from photos."""

    @field_validator("formulas")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(weights) - set(FORMULAS)):
            raise ValueError(f"unknown formula {unknown[0]!r}: choose from {', '.join(FORMULAS)}")
        if any(weight <= 0 for weight in weights.values()):
            raise ValueError("weights must be above 0: leave out what is not wanted")
        return weights

    @field_validator("teacher_times")
    @classmethod
    def _falls(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if times[:1] != (1.0,) or any(s <= t for s, t in pairwise((*times, 0.0))):
            raise ValueError("must fall strictly from 1 and stay above 0")
        return times

    @model_validator(mode="after")
    def _predicts(self) -> "DistillStage":
        if self.stem is None:
            raise ValueError(
                "stem: give the folder of a trained stem; its prediction is what samples are judged beside"
            )
        if not (self.formulas or self.adversarial or self.teacher):
            raise ValueError("there is nothing to learn from: give formulas, adversarial or a teacher")
        if self.feature_matching and not self.adversarial:
            raise ValueError("feature_matching: there is no discriminator with adversarial 0")
        return self

    def objective(self, parts: Parts = FROM_DISK) -> "DistillObjective":
        return DistillObjective(self, parts)


class Verdict(NamedTuple):
    """What the discriminator says of a batch: losses of the two sides of the game."""

    generator: Tensor
    discriminator: Tensor
    feature_matching: Tensor
    """Mean absolute difference of the features of sample and photo, over that of the photo's features from zero."""


class DistillNetwork(nn.Module):
    """The network and its discriminator, which are trained together."""

    def __init__(self, flow: FlowNetwork, discriminator: Discriminator | None) -> None:
        super().__init__()
        self.flow, self.discriminator = flow, discriminator

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        lr: Tensor,
        condition: LRCondition | None,
        guide: Guide | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
        hr: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Verdict | None]:
        """The prediction as of `FlowNetwork`; with `decode` and `hr` the decoded image (B, 3, H, W) and its verdict."""
        prediction: Tensor = self.flow(noisy, times, lr, condition, guide)
        if decode is None or hr is None:
            return prediction
        image = decode(prediction)
        if self.discriminator is None or condition is None or condition.prediction is None:
            return image, None
        return image, self._verdict(self.discriminator, image, hr, condition.prediction)

    @staticmethod
    def _verdict(discriminator: Discriminator, image: Tensor, hr: Tensor, prediction: Tensor) -> Verdict:
        """A sample against the photo that it should have been, the only pair that is compared.

        The game is that of relativistic pairs (Jolicoeur-Martineau 2018); features are matched as by Wang et al. 2018
        (arXiv 1711.11585, eq. 4): they know textures, where a formula knows pixels.
        """
        both = discriminator(torch.cat([hr, image.detach()]), torch.cat([prediction, prediction]))
        photo, detached = zip(*(logits.chunk(2) for logits in both.logits), strict=True)
        seen = [features.detach().chunk(2)[0] for features in both.features]
        # the generator's turn must leave the discriminator's weights alone
        fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
        fake = functional_call(discriminator, fixed, (image, prediction))
        return Verdict(
            _mean([F.softplus(real.detach() - own) for real, own in zip(photo, fake.logits, strict=True)]),
            _mean([F.softplus(own - real) for real, own in zip(photo, detached, strict=True)]),
            _mean(
                [
                    (own - real).float().abs() / real.float().abs().mean()
                    for real, own in zip(seen, fake.features, strict=True)
                ]
            ),
        )


class DistillObjective(FlowObjective):
    """Losses on the decoded estimate, of the network and of its discriminator at once."""

    def __init__(self, stage: DistillStage, parts: Parts) -> None:
        super().__init__(stage, parts)
        self.stage: DistillStage = stage
        self.discriminator = _discriminator(stage, parts)
        self.network = DistillNetwork(self.flow, self.discriminator)
        self.teacher = None if stage.teacher is None else parts.experts("stage.teacher", stage.teacher)
        self.first = None if stage.rollout is None else parts.experts("stage.rollout", stage.rollout)

    def to(self, device: torch.device) -> None:
        super().to(device)
        for helper in (self.teacher, self.first):
            if helper is not None:
                helper.to(device)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        condition, latent = self._encode(batch)
        assert condition is not None
        times, noise = self._draw(latent, batch.seeds)
        noisy = add_noise(self._begun(latent, noise, condition, batch.seeds), noise, times)

        def decode(prediction: Tensor) -> Tensor:
            clean = to_sample(prediction.float(), noisy, times, self.prediction_type)
            return self.codec.decode(clean, condition)

        guide = self._guide(batch, disturb=True)
        image, verdict = network(noisy, times, batch.lr, condition, guide, decode, batch.hr)
        # variances, of which some formulas are made, are differences of large sums
        with torch.autocast(image.device.type, enabled=False):
            terms = {
                name: weight * FORMULAS[name](image, batch.hr) for name, weight in self.stage.formulas.items()
            }
        if self.teacher is not None:
            taught = self.codec.decode(self._taught(noise, condition), condition)
            terms["teacher"] = self.stage.teacher_weight * l1(image, taught)
        if verdict is not None:
            terms["adversarial"] = self.stage.adversarial * verdict.generator
            terms["discriminator"] = verdict.discriminator
            if self.stage.feature_matching:
                terms["feature_matching"] = self.stage.feature_matching * verdict.feature_matching
        return terms

    @torch.no_grad()
    def _begun(self, latent: Tensor, noise: Tensor, condition: LRCondition, seeds: list[int]) -> Tensor:
        """What the noisy input is made from: the true latent, or the estimate of the network that steps before."""
        if self.first is None:
            return latent
        estimate = noise - _velocity(self.first, condition)(noise, 1.0)
        draws = [torch.rand((), generator=torch.Generator().manual_seed(s ^ _ROLLOUT_STREAM)) for s in seeds]
        own = (torch.stack(draws) < _HALF).to(latent.device)
        return torch.where(own[:, None, None, None], estimate, latent)

    @torch.no_grad()
    def _taught(self, noise: Tensor, condition: LRCondition) -> Tensor:
        assert self.teacher is not None
        return sample(_velocity(self.teacher, condition), noise, [*self.stage.teacher_times, 0.0])

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        states = states_of_parts(state, ("flow", "discriminator"))
        parts = dict(super().parts(states["flow"]))
        if self.discriminator is not None:
            judge = Discriminator.from_state(
                self.discriminator.config, states["discriminator"], "discriminator"
            )
            parts["discriminator"] = cast(Part, judge)
        return parts


def _discriminator(stage: DistillStage, parts: Parts) -> Discriminator | None:
    if not stage.adversarial:
        return None
    if stage.discriminator is not None:
        judge: Discriminator = parts.read(
            "stage.discriminator", stage.discriminator, Discriminator, dtype=torch.float32
        )
        return judge.train()
    return Discriminator(DiscriminatorConfig(stage.channels))


def _velocity(experts: SNRExperts, condition: LRCondition) -> Callable[[Tensor, float], Tensor]:
    def velocity(z: Tensor, t: float) -> Tensor:
        prediction = experts(z, 1000 * t, lr_features=condition.features)
        return to_velocity(prediction.float(), z, t, experts.config.prediction_type)

    return velocity


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack([loss.float().mean() for loss in losses]).mean()
