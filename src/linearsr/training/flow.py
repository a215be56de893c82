"""The flow stage, which covers pre-training, the training of each expert on its span, and fine-tuning."""

from collections.abc import Iterable, Mapping
from math import gcd, lcm, log2
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.flow.partition import Partition
from linearsr.flow.path import add_noise, to_sample, to_velocity
from linearsr.flow.sampler import initial_noise, sample, timesteps
from linearsr.guidance.features import FeatureGuidance
from linearsr.guidance.tags import TagGuidance
from linearsr.model_folder import STEMS
from linearsr.models.codec import ResidualCodec
from linearsr.models.lr_stem import LRCondition, LRStem, StridedStem, StridedStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import PretrainedModule
from linearsr.training.guidance import (
    GuidanceSettings,
    Guide,
    check_fit,
    disturbed,
    encoded,
    frozen_guidance,
    known_tags,
    place,
    start_guidance,
)
from linearsr.training.objective import Batch, Objective, Part, Trained, states_of_parts
from linearsr.training.parts import FROM_DISK, Parts, PartSettings, check_parts
from linearsr.training.section import ConfigError, check_fields
from linearsr.training.times import TimeLaw

_SAME_CODEC = 0.1
"""Largest relative difference between latents from shards and new ones, which may differ in precision."""
_NEW_SETTINGS = ("lr_channels", "num_null_tokens")
"""Settings that SANA does not have itself."""


class FlowStage(PartSettings, Trained):
    """A stage that trains a transformer by flow matching, on the whole trajectory or on one expert's span."""

    kind: Literal["flow"]
    boundaries: tuple[float, ...] = ()
    """Partition of the trajectory, as ascending times; empty: one network for all times."""
    expert: int = Field(0, ge=0)
    """Index of the span to train; 0 is the span with the most noise."""
    times: TimeLaw = TimeLaw()
    pure_noise_prob: float = Field(0.0, ge=0, le=1)
    """Share of samples at exactly t = 1, where the few-step sampler takes its longest step."""
    min_weight_time: float = Field(0.0, ge=0, le=1)
    """Lower bound of t in the weight 1 / t^2, which turns the clean latent's loss into the velocity's."""
    guidance: GuidanceSettings | None = None
    """Guidance of the network; None: it learns its null tokens only."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    validation_steps: int = Field(4, ge=1)
    others: tuple[Path, ...] = ()
    """Folders of the networks of all spans, one per expert or one for all; an expert is validated with them
    on the whole trajectory. A recipe sets them. Empty: an expert for less noise denoises the true latent."""

    @model_validator(mode="after")
    def _fits(self) -> "FlowStage":
        if self.init is not None and self.network:
            raise ValueError("network excludes init: the folder has its own settings")
        if self.sana is not None and (own := sorted(set(self.network) - set(_NEW_SETTINGS))):
            raise ValueError(
                f"network: {own[0]} is SANA's own: beside sana set {' and '.join(_NEW_SETTINGS)} only"
            )
        check_fields(TransformerConfig, self.network, "network")
        if self.stem is None and self.codec is None and self.sana is None:
            raise ValueError("stem: give the folder of a trained stem, or a codec that needs none")
        if len(self.others) not in (0, 1, len(self.boundaries) + 1):
            raise ValueError(f"others: {len(self.others)} folders: give one, or {len(self.boundaries) + 1}")
        if self.others and (self.stem is None or (self.guidance and self.guidance.part is None)):
            raise ValueError("others: need the stem and the guidance that they were trained with, frozen")
        try:
            if self.detail_blocks and self.init is None:
                raise ValueError("detail_blocks needs init; a new network has its own in network")
            _ = Partition(self.boundaries).span(self.expert), self.wanted
        except (TypeError, IndexError) as error:
            raise ValueError(str(error)) from None
        return self

    def objective(self, parts: Parts = FROM_DISK) -> "FlowObjective":
        return FlowObjective(self, parts)


class FlowNetwork(nn.Module):
    """The transformer, with the LR stem and the guidance if they are trained jointly."""

    def __init__(
        self,
        transformer: LinearSRTransformer,
        lr_stem: StridedStem | None = None,
        guidance: TagGuidance | FeatureGuidance | None = None,
    ) -> None:
        super().__init__()
        self.transformer, self.lr_stem, self.guidance = transformer, lr_stem, guidance

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        lr: Tensor,
        condition: LRCondition | None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Return the prediction (B, C, h', w') for noisy latents (B, C, h', w') at times (B,) in [0, 1].

        A jointly trained stem reads `lr` (B, 3, h, w) in [-1, 1]; `condition` is that of a frozen stem.
        """
        if self.lr_stem is not None:
            condition = self.lr_stem(lr)
        assert condition is not None
        tokens = guide and guide.tokens
        if guide is not None and self.guidance is not None:
            tokens = self.guidance(lr, guide.tags)
        if guide is not None and tokens is not None:
            tokens = guide.hidden(tokens)
        prediction: Tensor = self.transformer(
            noisy,
            times * 1000,
            lr_features=condition.features,
            encoder_hidden_states=tokens and tokens.embeds,
            encoder_attention_mask=tokens and tokens.mask,
        )
        return prediction


class FlowObjective(Objective):
    """Conditional flow matching on the latent (arXiv 2210.02747), on one span of the trajectory."""

    scale = 4

    def __init__(self, stage: FlowStage, parts: Parts) -> None:
        self.stage = stage
        self.stem: LRStem | None = None
        if stage.stem is not None:
            stem: LRStem = parts.read("stage.stem", stage.stem, STEMS, "a stem")
            cast(nn.Module, stem).requires_grad_(False)
            self.stem, self.scale = stem, int(stem.config.scale)
        self.codec = parts.codec(stage)
        cast(nn.Module, self.codec).requires_grad_(False)
        self.wants_latents, self._same_codec = not isinstance(self.codec, ResidualCodec), False
        self.guidance = frozen_guidance(stage.guidance, parts)
        transformer = parts.transformer(stage, None if self.guidance is None else self.guidance.channels)
        self.config: TransformerConfig = transformer.config
        self.prediction_type = self.config.prediction_type
        if stage.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        new_stem = None
        if self.stem is None:
            stem = new_stem = self._fresh_stem()
        check_parts(stage, self.config, stem, self.codec)
        new_guidance = None
        if stage.guidance is not None:
            check_fit(stage.guidance, self.guidance, self.config)
            if self.guidance is None:
                new_guidance = start_guidance(stage.guidance, transformer, parts)
            self.vocabulary = known_tags(stage.guidance, new_guidance or self.guidance)
        self.flow = FlowNetwork(transformer, new_stem, new_guidance)
        self.network: nn.Module = self.flow
        hr_multiple = self.codec.compression * self.config.patch_size
        self.multiple_of = lcm(stem.multiple_of, hr_multiple // gcd(hr_multiple, self.scale))
        self.partition = Partition(stage.boundaries)
        self.low, self.high = self.partition.span(stage.expert)
        self.others = self._others(parts)

    def _others(self, parts: Parts) -> nn.ModuleList:
        """Read the networks of the other spans, with an `Identity` for the trained one; may be empty."""
        folders = self.stage.others * (self.partition.num_experts if len(self.stage.others) == 1 else 1)
        others = {
            folder: FlowNetwork(parts.read("stage.others", folder, LinearSRTransformer)).requires_grad_(False)
            for folder in {folder for index, folder in enumerate(folders) if index != self.stage.expert}
        }
        return nn.ModuleList(others.get(folder, nn.Identity()) for folder in folders)

    def _fresh_stem(self) -> StridedStem:
        """Return the paper's stem, which takes LR pixels to the latent's grid with strides of two."""
        if self.codec.compression <= self.scale:
            raise ConfigError(
                f"{self.stage.codec_key}: compresses {self.codec.compression} times, but an LR stem that is trained "
                f"along needs more than {self.scale}"
            )
        layers = round(log2(self.codec.compression / self.scale))
        return StridedStem(StridedStemConfig(self.scale, self.config.lr_channels, layers))

    def to(self, device: torch.device) -> None:
        super().to(device)
        if self.guidance is not None and self.stage.guidance is not None:
            place(self.guidance, device, self.vocabulary, self.stage.guidance)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        condition, latent = self._encode(batch)
        times, noise = self._draw(latent, batch.seeds)
        noisy = add_noise(latent, noise, times)
        prediction = network(noisy, times, batch.lr, condition, self._guide(batch, disturb=True))
        clean = to_sample(prediction.float(), noisy, times, self.prediction_type)
        # the velocity loss, written as a weighted error of the clean latent
        error = (clean - latent).square().mean(dim=(1, 2, 3))
        weights = 1 / times.clamp(min=max(self.stage.min_weight_time, 1e-4)).square()
        return {"flow": (weights * error).mean()}

    @torch.no_grad()
    def _encode(self, batch: Batch) -> tuple[LRCondition | None, Tensor]:
        condition = None if self.stem is None else self.stem(batch.lr)
        given = batch.latent.float()
        if given.numel() and self._same_codec:
            return condition, given
        # a codec that needs the stem's prediction comes with a frozen stem
        latent = self.codec.encode(batch.hr, condition or LRCondition(batch.lr)).float()
        if not given.numel():
            return condition, latent
        # check the shards' codec on the first batch; the comparison is false for NaN, which is refused too
        same = (
            latent.shape == given.shape and (latent - given).abs().mean() <= _SAME_CODEC * latent.abs().mean()
        )
        if not same:
            raise ConfigError(
                "data.shards: their latents are of another codec than the stage's: make them again"
            )
        self._same_codec = True
        return condition, given

    def _guide(self, batch: Batch, disturb: bool) -> Guide | None:
        if (settings := self.stage.guidance) is None:
            return None
        if disturb:
            guide = disturbed(batch.tags, batch.seeds, settings, self.guidance)
        else:
            guide = Guide(batch.tags, batch.tags.new_zeros(len(batch.tags), dtype=torch.bool))
        return guide if self.guidance is None else encoded(guide, self.guidance, batch.lr, self.vocabulary)

    def _draw(self, latent: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Draw times (B,) and noise of the latent's shape, from one seed per sample."""
        uniform = torch.stack(
            [torch.rand(2, generator=torch.Generator().manual_seed(seed ^ 0x5EED)) for seed in seeds]
        )
        times = self.stage.times.draw(uniform[:, 0], self.low, self.high)
        pure = uniform[:, 1] < self.stage.pure_noise_prob
        times = torch.where(pure & (self.high == 1), torch.ones(()), times)
        noise = initial_noise(tuple(latent.shape), seeds, device=latent.device)
        return times.to(latent.device), noise

    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the mean and a sample, both from pure noise.

        In place of the mean, an expert for less noise denoises the true latent at its noisiest time. It gives
        a sample only with `others`: each step then uses the expert for its time.
        """
        condition, latent = self._encode(batch)
        guide = self._guide(batch, disturb=False)
        noise = initial_noise(tuple(latent.shape), 0, device=latent.device)

        def velocity(z: Tensor, t: float) -> Tensor:
            times = torch.full((len(z),), t, device=z.device)
            expert = self.partition.expert(t)
            used = self.others[expert] if self.others and expert != self.stage.expert else network
            prediction = used(z, times, batch.lr, condition, guide)
            return to_velocity(prediction.float(), z, times, self.prediction_type)

        if self.high < 1:
            noisy = add_noise(latent, noise, self.high)
            estimates = {"denoised": noisy - self.high * velocity(noisy, self.high)}
        else:
            estimates = {"mean": noise - velocity(noise, 1.0)}
        if self.high == 1 or self.others:
            times = timesteps(self.stage.validation_steps, self.stage.times.shift)
            estimates["sample"] = sample(velocity, noise, times)
        if isinstance(self.codec, ResidualCodec):
            estimates["stem"] = torch.zeros_like(latent)
        decoded = condition or LRCondition(batch.lr)
        return {name: self.codec.decode(estimate, decoded) for name, estimate in estimates.items()}

    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        states = states_of_parts(state, dict(self.flow.named_children()))
        return {
            name: type(part).from_state(part.config, states[name], name)
            for name, part in cast(Iterable[tuple[str, PretrainedModule]], self.flow.named_children())
        }
