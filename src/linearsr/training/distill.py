"""The distillation stage, which replaces many steps by few: the network learns to give a sample in one step.

A network trained by regression gives the mean of all images that fit, which is smooth, and needs many steps
to settle on one of them. Here its estimate is decoded to pixels and judged there: by a discriminator that
knows photos (adversarial distillation, Sauer et al. 2023), by loss formulas, and by a teacher's sample from
the same noise.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from linearsr.flow.experts import SNRExperts
from linearsr.flow.path import add_noise, to_sample, to_velocity
from linearsr.flow.sampler import sample
from linearsr.images.resize import resize
from linearsr.models.lr_stem import LRCondition
from linearsr.training.flow import FlowNetwork, FlowObjective, FlowStage
from linearsr.training.guidance import Guide
from linearsr.training.judges import FORMULAS, Discriminator, Verdict, l1, play
from linearsr.training.objective import Batch, Part, states_of_parts
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import ConfigError

_ROLLOUT_STREAM = 0x0110
_WINDOW_STREAM = 0x0C20


class DistillStage(FlowStage):
    """A stage that trains a transformer to sample in one step, on the whole trajectory or on one span."""

    kind: Literal["distill"]  # type: ignore[assignment]
    formulas: dict[Literal["l1", "ms_ssim"], Annotated[float, Field(gt=0)]] = Field({"l1": 1.0})
    """Losses between the decoded sample and the HR image -> weight; see `training/judges.py`."""
    adversarial: float = Field(0.1, ge=0)
    """Weight of the adversarial loss; 0: there is no discriminator."""
    channels: int = Field(64, ge=8)
    """Width of the discriminator's first level."""
    teacher: Path | None = None
    """Folder of trained experts whose samples the network learns to match in one step."""
    teacher_times: tuple[float, ...] = (1.0, 0.939, 0.875, 0.223)
    """Times at which the teacher's steps begin."""
    judged_crop: int = Field(0, ge=0)
    """Side in LR pixels of a random window of each crop; only the window is decoded and judged, because the
    decoder of an autoencoder takes more memory than the network. 0: the whole crop."""
    rollout: Path | None = None
    """Network that takes the first step, from pure noise: half of the noisy inputs are then made from its
    estimates, as in sampling, and half from photos. None: all from photos."""

    @field_validator("teacher_times")
    @classmethod
    def _falls(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if times[:1] != (1.0,) or any(s <= t for s, t in pairwise((*times, 0.0))):
            raise ValueError("must fall strictly from 1 and stay above 0")
        return times

    @model_validator(mode="after")
    def _predicts(self) -> "DistillStage":
        if self.stem is None:
            raise ValueError("stem: give the folder of a trained stem; distillation keeps it frozen")
        if not (self.formulas or self.adversarial or self.teacher):
            raise ValueError("there is nothing to learn from: give formulas, adversarial or a teacher")
        if "teacher_times" in self.model_fields_set and self.teacher is None:
            raise ValueError("teacher_times: has no effect without teacher: set teacher, or leave it out")
        if "min_weight_time" in self.model_fields_set:
            raise ValueError(
                "min_weight_time: weighs the velocity loss, which distill does not use: leave it out"
            )
        if self.rollout is not None and self.pure_noise_prob == 1 and self.expert == 0:
            raise ValueError(
                "rollout: has no effect with pure_noise_prob 1, where every input is noise alone"
            )
        if self.guidance is not None and self.guidance.part is None and (self.teacher or self.rollout):
            raise ValueError(
                "guidance: teacher and rollout know only the tokens they were trained with: set guidance.part to "
                "the folder of their guidance"
            )
        return self

    def objective(self, parts: Parts = FROM_DISK) -> "DistillObjective":
        return DistillObjective(self, parts)


class Judged(NamedTuple):
    """What a prediction is decoded with and judged against; images are those of the judged window."""

    decode: Callable[[Tensor], Tensor]
    """Decodes the network's prediction to the image (B, 3, H, W) of the sample."""
    hr: Tensor
    """(B, 3, H, W), the photo."""
    beside: Tensor
    """(B, 3, H, W), the stem's prediction, or the bicubically upsampled LR image if there is none."""


class DistillNetwork(nn.Module):
    """The network and its discriminator, which are trained jointly."""

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
        judged: Judged | None = None,
    ) -> Tensor | tuple[Tensor, Verdict | None]:
        """Return the prediction as `FlowNetwork` does; with `judged`, the decoded image and its verdict."""
        prediction: Tensor = self.flow(noisy, times, lr, condition, guide)
        if judged is None:
            return prediction
        image = judged.decode(prediction)
        if self.discriminator is None:
            return image, None
        return image, play(self.discriminator, image, judged.hr, judged.beside)


class DistillObjective(FlowObjective):
    """The losses of distillation on the decoded estimate, for the network and its discriminator at once."""

    def __init__(self, stage: DistillStage, parts: Parts) -> None:
        super().__init__(stage, parts)
        self.stage: DistillStage = stage
        discriminator = Discriminator(stage.channels) if stage.adversarial else None
        self.network = DistillNetwork(self.flow, discriminator)
        self.teacher = self._helper("teacher", stage.teacher, parts)
        self.first = self._helper("rollout", stage.rollout, parts)
        if stage.judged_crop % self.multiple_of:
            raise ConfigError(
                f"stage.judged_crop: {stage.judged_crop} is not a multiple of {self.multiple_of}"
            )

    def _helper(self, key: str, folder: Path | None, parts: Parts) -> SNRExperts | None:
        """Read the frozen networks of `teacher` or `rollout`; they must take the trained network's inputs."""
        if folder is None:
            return None
        experts = parts.experts(f"stage.{key}", folder).requires_grad_(False)
        for name in ("in_channels", "out_channels", "lr_channels", "caption_channels"):
            found, expected = getattr(experts.config, name), getattr(self.config, name)
            if found != expected:
                raise ConfigError(
                    f"stage.{key}: {name} is {found}, but {expected} in the network that is trained"
                )
        if self.stage.guidance is not None and not experts.config.num_null_tokens:
            raise ConfigError(
                f"stage.{key}: has no null tokens, so guidance cannot be left out: choose another"
            )
        return experts

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        condition, latent = self._encode(batch)
        assert condition is not None
        times, noise = self._draw(latent, batch.seeds)
        guide = self._guide(batch, disturb=True)
        noisy = add_noise(self._begun(latent, noise, condition, batch.seeds, guide), noise, times)
        cut = self._windows(batch)
        prediction, deviation = condition.prediction, condition.deviation
        window = condition._replace(
            prediction=None if prediction is None else cut(prediction),
            deviation=None if deviation is None else cut(deviation),
        )
        height, width = batch.hr.shape[-2:]
        beside = cut(resize(batch.lr, (height, width))) if window.prediction is None else window.prediction

        def decode(prediction: Tensor) -> Tensor:
            clean = to_sample(prediction.float(), noisy, times, self.prediction_type)
            return self.codec.decode(cut(clean), window)

        hr = cut(batch.hr)
        image, verdict = network(noisy, times, batch.lr, condition, guide, Judged(decode, hr, beside))
        # in float32: some formulas use variances, which are differences of large sums
        with torch.autocast(image.device.type, enabled=False):
            terms: dict[str, Tensor] = {
                name: weight * FORMULAS[name](image, hr) for name, weight in self.stage.formulas.items()
            }
        if self.teacher is not None:
            with torch.no_grad():
                times_left = [*self.stage.teacher_times, 0.0]
                taught = sample(_velocity(self.teacher, condition, guide), noise, times_left)
            terms["teacher"] = l1(image, self.codec.decode(cut(taught), window))
        if verdict is not None:
            terms["adversarial"] = self.stage.adversarial * verdict.generator
            terms["discriminator"] = verdict.discriminator
        return terms

    def _windows(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        """Return a function that cuts the judged windows out of images or latents."""
        size, step, sides = self.stage.judged_crop, self.multiple_of, batch.lr.shape[-2:]
        if not size:
            return lambda crops: crops
        ends = [(side - size) // step + 1 for side in sides]
        corners = [np.random.default_rng([seed, _WINDOW_STREAM]).integers(ends) for seed in batch.seeds]

        def cut(crops: Tensor) -> Tensor:
            # convert lengths in LR pixels to the resolution of `crops`, images or latents
            whole = np.array(crops.shape[-2:])
            height, width = size * whole // sides
            places = (corner * step * whole // sides for corner in corners)
            cuts = zip(crops, places, strict=True)
            return torch.stack([crop[:, y : y + height, x : x + width] for crop, (y, x) in cuts])

        return cut

    @torch.no_grad()
    def _begun(
        self, latent: Tensor, noise: Tensor, condition: LRCondition, seeds: list[int], guide: Guide | None
    ) -> Tensor:
        """Return the latents to add noise to: true ones, or in half of the cases the `rollout` network's."""
        if self.first is None:
            return latent
        estimate = noise - _velocity(self.first, condition, guide)(noise, 1.0)
        draws = [torch.rand((), generator=torch.Generator().manual_seed(s ^ _ROLLOUT_STREAM)) for s in seeds]
        own = (torch.stack(draws) < 0.5).to(latent.device)
        return torch.where(own[:, None, None, None], estimate, latent)

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        return super().parts(states_of_parts(state, ("flow", "discriminator"))["flow"])


def _velocity(
    experts: SNRExperts, condition: LRCondition, guide: Guide | None
) -> Callable[[Tensor, float], Tensor]:
    tokens = guide and guide.tokens and guide.hidden(guide.tokens)

    def velocity(z: Tensor, t: float) -> Tensor:
        prediction = experts(
            z,
            1000 * t,
            lr_features=condition.features,
            encoder_hidden_states=tokens and tokens.embeds,
            encoder_attention_mask=tokens and tokens.mask,
        )
        return to_velocity(prediction.float(), z, t, experts.config.prediction_type)

    return velocity
