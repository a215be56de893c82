"""What each stage trains, and how it is judged: loss on a batch, prediction on a validation image."""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from linearsr.checkpoints import PretrainedModule
from linearsr.flow.partition import Partition
from linearsr.flow.path import add_noise, to_sample, to_velocity
from linearsr.flow.sampler import sample, timesteps
from linearsr.models.codec import Codec, ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.config import FlowStage, StemStage


class Objective(ABC):
    """One stage's network, loss and prediction. Images are (B, 3, h, w) and (B, 3, H, W) in [-1, 1]."""

    scale: int
    multiple_of: int
    """LR sides must be multiples of this."""
    network: PretrainedModule

    @abstractmethod
    def loss(self, network: nn.Module, lr: Tensor, hr: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """Scalar terms of the loss; their sum is minimised. `network` may be wrapped for several devices."""

    @abstractmethod
    def predict(self, network: nn.Module, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """Estimates of `hr` by setting, e.g. {"mean": ..., "sample": ...}; the values are (B, 3, H, W)."""


class StemObjective(Objective):
    """L1 for the prediction; Laplace likelihood of its error, |r| / b + log b, for the deviation b."""

    def __init__(self, stage: StemStage) -> None:
        if stage.init is not None:
            self.network = PredictiveStem.from_pretrained(stage.init)
        else:
            self.network = PredictiveStem(PredictiveStemConfig(**stage.stem))
        self.scale = self.network.config.scale
        self.multiple_of = self.network.multiple_of

    def loss(self, network: nn.Module, lr: Tensor, hr: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        condition = network(lr)
        error = (hr - condition.prediction).abs()
        likelihood = error.detach() / condition.deviation + condition.deviation.log()
        # the deviation head sees detached features, so its weight changes nothing but its own step
        return {"l1": error.mean(), "likelihood": 0.01 * likelihood.mean()}

    def predict(self, network: nn.Module, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        return {"mean": network(lr).prediction}


class FlowObjective(Objective):
    """Conditional flow matching on the latent, in one span of the trajectory."""

    def __init__(self, stage: FlowStage, device: torch.device) -> None:
        self.stage = stage
        self.stem = PredictiveStem.from_pretrained(stage.stem, device=device).requires_grad_(False)
        self.codec: Codec = ResidualCodec(ResidualCodecConfig())
        self.scale = self.stem.config.scale
        self.multiple_of = self.stem.multiple_of
        if stage.init is not None:
            self.network = LinearSRTransformer.from_pretrained(stage.init)
        else:
            self.network = LinearSRTransformer(replace(PRESETS[stage.preset], **stage.network))
        self.low, self.high = Partition(stage.boundaries).span(stage.expert)

    def loss(self, network: nn.Module, lr: Tensor, hr: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        condition = self.stem(lr)
        latent = self.codec.encode(hr, condition)
        times = self._draw_times(len(lr), rng).to(latent.device)
        noise = torch.randn(latent.shape, generator=rng).to(latent.device)
        noisy = add_noise(latent, noise, times)
        prediction = network(noisy, times * 1000, lr_features=condition.features)
        clean = to_sample(prediction.float(), noisy, times, self.network.config.prediction_type)
        error = (clean - latent).square().mean(dim=(1, 2, 3))
        # the velocity's error is the sample's over t; near the image that weight would drown everything else
        weights = 1 / times.clamp(min=0.3).square()
        return {"flow": (weights * error).mean()}

    def _draw_times(self, count: int, rng: torch.Generator) -> Tensor:
        times = self.low + (self.high - self.low) * torch.rand(count, generator=rng)
        pure = torch.rand(count, generator=rng) < self.stage.pure_noise_prob
        return torch.where(pure & (self.high == 1), torch.ones(()), times)

    def predict(self, network: nn.Module, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """From pure noise the mean and a sample; an expert for less noise denoises the truth at its noisiest time."""
        condition = self.stem(lr)
        latent = self.codec.encode(hr, condition)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(lr.device)

        def velocity(z: Tensor, t: float) -> Tensor:
            times = torch.full((len(z),), t, device=z.device)
            prediction = network(z, times * 1000, lr_features=condition.features)
            return to_velocity(prediction.float(), z, times, self.network.config.prediction_type)

        if self.high < 1:
            noisy = add_noise(latent, noise, self.high)
            estimates = {"denoised": noisy - self.high * velocity(noisy, self.high)}
        else:
            estimates = {
                "mean": noise - velocity(noise, 1.0),
                "sample": sample(velocity, noise, timesteps(self.stage.validation_steps)),
            }
        decoded = {name: self.codec.decode(estimate, condition) for name, estimate in estimates.items()}
        return {"stem": self.codec.decode(torch.zeros_like(latent), condition), **decoded}


def build_objective(stage: StemStage | FlowStage, device: torch.device) -> Objective:
    """The objective that a stage's config asks for; what it keeps frozen lies on `device`."""
    return StemObjective(stage) if isinstance(stage, StemStage) else FlowObjective(stage, device)
