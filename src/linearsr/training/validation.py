"""Validation during training: whole photos, degraded with a fixed seed, upscaled by the averaged weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from pydantic import Field, field_validator
from torch import Tensor, nn

from linearsr.evaluation.evaluate import scorers_of
from linearsr.evaluation.metrics import SSIM_LEAST_SIDE
from linearsr.evaluation.registry import METRICS, choose, known_metric
from linearsr.images.degradation_choice import label, named_degradation
from linearsr.images.photos import degraded_pair
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_size
from linearsr.models.codec import pad_to_multiple
from linearsr.runtime.files import prefixed
from linearsr.training.catalogue import find_photos
from linearsr.training.data import known_degradations, to_tensor
from linearsr.training.objective import Batch, Objective
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.section import ConfigError, Section

_SAMPLE = "sample"
Pictures = Callable[[str, dict[str, Tensor]], None]
"""A function called with a name, and with images (3, H, W) in [-1, 1] by column."""


class ValidationConfig(Section):
    """The photos, degradations and metrics of a validation."""

    folder: Path
    degradations: list[str] = Field(["mild", "bicubic"])
    metrics: list[str] = Field(["psnr_y", "ssim_y"], min_length=1)
    """Metrics of `linearsr eval`. No-reference ones judge the sample, if any: a mean is smooth by nature."""
    every_images: int = Field(gt=0)
    max_pictures: int = Field(64, gt=0)
    sample_pictures: int = Field(2, ge=0)
    """Number of photos whose results are also written as pictures, beside LR (enlarged) and HR."""

    @field_validator("degradations")
    @classmethod
    def _check(cls, names: list[str]) -> list[str]:
        return list(known_degradations(dict.fromkeys(names, 1.0)))

    @field_validator("metrics")
    @classmethod
    def _check_metrics(cls, names: list[str]) -> list[str]:
        return [known_metric(name, ["full-reference", "no-reference"]) for name in names]

    @property
    def least_side(self) -> int:
        """Smallest side in pixels that all metrics can judge."""
        return max(metric.least_side for metric in choose(self.metrics, has_reference=True))


@cache
def validation_photos(
    folder: Path, scale: int, max_pictures: int, least_side: int = SSIM_LEAST_SIDE
) -> list[Path]:
    """Return the first `max_pictures` photos of a folder.

    Raises:
        ConfigError: when `folder` has no photos, or one of them cannot be read or is too small to measure: no
            photo is left out silently.
    """
    photos = find_photos(folder, "validation.folder")[:max_pictures]
    least = -(-least_side // scale) * scale
    for path in photos:
        with prefixed("validation.folder: ", ConfigError, ImageError):
            size = read_size(path, str(path))
        if min(size) < least:
            raise ConfigError(
                f"validation.folder: {path}: has less than {least} pixels on a side: leave it out"
            )
    return photos


def validation_pairs(
    folder: Path, degradation: str, scale: int, max_pictures: int, least_side: int = SSIM_LEAST_SIDE
) -> list[tuple[str, Tensor, Tensor]]:
    """Make (name, lr (3, h, w), hr (3, H, W)) in [-1, 1] of each photo, as `linearsr degrade --seed 0`.

    Raises ConfigError: as `validation_photos`.
    """
    pairs, how = [], named_degradation(degradation)
    for path in validation_photos(folder, scale, max_pictures, least_side):
        with prefixed("validation.folder: ", ConfigError, ImageError):
            lr, hr = degraded_pair(path, how, seed=0, scale=scale)
        pairs.append((path.stem, to_tensor(lr), to_tensor(hr)))
    return pairs


class Validation:
    """The validation of a run, which measures a network on the same photos each time."""

    def __init__(
        self,
        config: ValidationConfig,
        objective: Objective,
        accelerator: Accelerator,
        photo_tags: PhotoTags | None = None,
    ) -> None:
        self.config, self.objective, self.accelerator = config, objective, accelerator
        limits = (config.max_pictures, config.least_side)
        photos = validation_photos(config.folder, objective.scale, *limits)
        self.tags = [torch.empty(0) if photo_tags is None else photo_tags.bag(photo) for photo in photos]
        self.pairs = [
            (degradation, index, *pair)
            for degradation in config.degradations
            for index, pair in enumerate(
                validation_pairs(config.folder, degradation, objective.scale, *limits)
            )
        ]
        metrics = choose(config.metrics, has_reference=True)
        self.scorers, unavailable = scorers_of(metrics, accelerator.device)
        for name, reason in unavailable.items():
            raise ConfigError(f"validation.metrics: {name}: {reason}")

    @torch.no_grad()
    def run(self, network: nn.Module, show: Pictures) -> dict[str, float]:
        """Return metrics by "degradation/setting/metric", means over the photos; processes share the photos.

        `show` receives the pictures of the first photos.
        """
        was_training = network.training
        network.eval()
        here, count = self.accelerator.process_index, self.accelerator.num_processes
        found: list[tuple[str, float]] = []
        # all processes take the same number of turns: split weights (FSDP) need all of them in each forward
        for turn in range(-(-len(self.pairs) // count)):
            place = turn * count + here
            degradation, index, name, lr, hr = self.pairs[min(place, len(self.pairs) - 1)]
            estimates = self._upscale(network, lr, hr, self.tags[index])
            if place >= len(self.pairs):
                continue
            # no-reference metrics judge the sample, or else the first estimate
            natural = _SAMPLE if _SAMPLE in estimates else next(iter(estimates))
            for setting, image in estimates.items():
                found += [
                    (f"{label(degradation)}/{setting}/{metric}", scorer(_unit(image), _unit(hr)))
                    for metric, scorer in self.scorers.items()
                    if METRICS[metric].kind == "full-reference" or setting == natural
                ]
            if index < self.config.sample_pictures:
                enlarged = nn.functional.interpolate(lr[None], size=hr.shape[-2:], mode="nearest")[0]
                show(f"{index}-{name}-{label(degradation)}", {"lr": enlarged, **estimates, "hr": hr})
        network.train(was_training)
        sums: dict[str, list[float]] = {}
        for key, value in gather_object(found):
            sums.setdefault(key, []).append(value)
        # sum in sorted order, so that the figures do not depend on the number of processes
        return {key: round(sum(sorted(values)) / len(values), 4) for key, values in sorted(sums.items())}

    def _upscale(self, network: nn.Module, lr: Tensor, hr: Tensor, tags: Tensor) -> dict[str, Tensor]:
        multiple, (height, width) = self.objective.multiple_of, hr.shape[-2:]
        device = self.accelerator.device
        padded_lr = pad_to_multiple(lr[None], multiple).to(device)
        padded_hr = pad_to_multiple(hr[None], multiple * self.objective.scale).to(device)
        batch = Batch(padded_lr, padded_hr, tags[None].to(device), seeds=[0])
        with self.accelerator.autocast():
            images = self.objective.predict(network, batch)
        return {setting: image[0, :, :height, :width].float().cpu() for setting, image in images.items()}


def _unit(image: Tensor) -> Tensor:
    return ((image[None] + 1) / 2).clamp(0, 1)
