"""The stages that make a part at once: the weights between two networks, and the head that tells degradations.

A stem that learns new degradations forgets a little of the old ones. On the straight line between before and after
most of the new is there before much of the old is lost (Wortsman et al. 2022, "Robust fine-tuning"). Of two samplers
that were trained against a discriminator, each has faults of its own, which the network between them has in part only.

A stem's blocks use its summary of the image to treat each kind of degradation as it should be; `strength` reads from it
how far an image is from a clean resize of the same photo, one by a filter that does not alias and nothing else, in
units of the detail that there is. It learns from photos degraded by the presets, and by parts of them that no preset
has alone: resized only, with noise but not compressed, and so on.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from linearsr.images.degradation import PRESETS, ImageArray, degrade
from linearsr.images.photos import read_rgb
from linearsr.models.lr_stem import STEMS, PredictiveStem, local_detail
from linearsr.models.transformer import LinearSRTransformer
from linearsr.runtime.checkpoints import PretrainedModule
from linearsr.runtime.files import prefixed
from linearsr.training.catalogue import find_photos
from linearsr.training.data import DataConfig, to_tensor, to_unit
from linearsr.training.objective import Computed, Part
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import ConfigError

_Network = TypeVar("_Network", bound=PretrainedModule)
_KINDS: dict[str, type[PretrainedModule]] = {**STEMS, LinearSRTransformer.__name__: LinearSRTransformer}


class BlendStage(Computed):
    """Take the weights between two networks of one shape."""

    kind: Literal["blend"]
    before: Path
    """Folder of the network that training began with."""
    after: Path
    """Folder of what it became."""
    share: float = Field(0.5, ge=0, le=1)
    """How much of the way from `before` (0) to `after` (1)."""

    def shapes(self, parts: Parts) -> dict[str, Part]:
        before, _ = self._both(parts)
        return {self.before.name: cast(Part, before)}

    def compute(self, data: DataConfig, seed: int) -> tuple[dict[str, Part], dict[str, float]]:
        with prefixed("stage.after: ", ConfigError):
            return {self.before.name: cast(Part, interpolate(*self._both(FROM_DISK), self.share))}, {}

    def _both(self, parts: Parts) -> tuple[PretrainedModule, PretrainedModule]:
        what = "a network to blend"
        before = parts.read("stage.before", self.before, _KINDS, what)
        return before, parts.read("stage.after", self.after, _KINDS, what)


def interpolate(before: _Network, after: PretrainedModule, share: float) -> _Network:
    """The network at `share`, from 0 (`before`) to 1 (`after`), of the way; counters are those of `before`.

    What a stem tells of the degradation is not between the two: it is fitted anew.

    Raises:
        ValueError: networks of different shapes.
    """
    before, after = _without_strength(before), _without_strength(after)
    if before.config != after.config:
        raise ValueError("the two networks differ in shape: one must have been trained on from the other")
    other = after.state_dict()

    def between(name: str, weight: Tensor) -> Tensor:
        return (
            torch.lerp(weight.float(), other[name].float(), share) if weight.is_floating_point() else weight
        )

    state = {name: between(name, weight) for name, weight in before.state_dict().items()}
    return type(before).from_state(before.config, state, "interpolated")


def _without_strength(network: _Network) -> _Network:
    return cast(_Network, network.grown()) if isinstance(network, PredictiveStem) else network


_CLEAN = (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX, Image.Resampling.BILINEAR)
"""Of Pillow, which does not alias."""
_MEASURED = sorted(set(PRESETS) - {"resized"})
"""Presets for which `bicubic` is the clean resize."""
_CLEAN_SHARES = (0.4, 0.2, 0.2, 0.2)
_ALIASED_SHARE = 0.1
_PRESET_SHARE = 0.3
_LARGEST_BLUR = 6.0
"""Deviation in HR pixels."""
_LARGEST_NOISE = 15.0
"""Deviation in grey levels."""
_STEPS, _BATCH = 4000, 128
_CHANNELS = 32
"""Width of the head."""


class StrengthStage(Computed):
    """Fit the head of a stem that tells how degraded an image is, on the photos of `data.folders`."""

    kind: Literal["strength"]
    stem: Path
    """Folder of a stem with a summary, whose training is over."""
    images: int = Field(3000, ge=16)
    """Degraded crops to learn from."""

    def shapes(self, parts: Parts) -> dict[str, Part]:
        stem = self._read(parts)
        return {"lr_stem": cast(Part, PredictiveStem(replace(stem.config, strength_channels=_CHANNELS)))}

    def compute(self, data: DataConfig, seed: int) -> tuple[dict[str, Part], dict[str, float]]:
        stem = self._read(FROM_DISK)
        files = [path for folder in data.folders for path in find_photos(folder, "data.folders")]
        if len(files) < 2:
            raise ConfigError("data.folders: at least 2 photos are needed")
        # every eighth photo is kept back, to tell what the head is worth
        kept, used = files[::8], [path for i, path in enumerate(files) if i % 8]
        fitted = fit_strength(stem, *_observed(stem, used, self.images, seed), seed=seed)
        share = explained(fitted, *_observed(stem, kept, self.images // 8, seed + 1))
        return {"lr_stem": cast(Part, fitted)}, {"explained": round(share, 4)}

    def _read(self, parts: Parts) -> PredictiveStem:
        stem: PredictiveStem = parts.read("stage.stem", self.stem, PredictiveStem, dtype=torch.float32)
        if stem.summary is None:
            raise ConfigError(
                f"stage.stem: {self.stem}: a stem without a summary cannot tell how degraded an image is"
            )
        return stem


def strength_of(lr: ImageArray, clean: ImageArray) -> float:
    """log(1 + 100 d), d the RMS difference of two images (h, w, 3) in [0, 1] over the RMS of the clean one's detail.

    Detail is what `local_detail` leaves, and at least one grey level.
    """
    difference = np.sqrt(np.square(lr - clean).mean())
    detail = local_detail(to_tensor(clean)[None] / 2).square().mean().sqrt()
    return float(np.log1p(100 * difference / max(float(detail), 1 / 255)))


def degraded(hr: ImageArray, rng: np.random.Generator, scale: int) -> tuple[ImageArray, float]:
    """An LR image of HR (H, W, 3) in [0, 1], degraded in any way or not at all, and how much that is."""
    if rng.random() < _PRESET_SHARE:
        lr = degrade(hr, PRESETS[str(rng.choice(_MEASURED))], rng, scale)
        return lr, strength_of(lr, degrade(hr, PRESETS["bicubic"], rng, scale))
    image = Image.fromarray((hr * 255).round().astype(np.uint8))
    size = image.width // scale, image.height // scale
    clean = _CLEAN[int(rng.choice(len(_CLEAN), p=_CLEAN_SHARES))]
    aliased = rng.random() < _ALIASED_SHARE
    lr = _some_parts(image, size, Image.Resampling.NEAREST if aliased else clean, rng)
    return lr, strength_of(lr, to_unit(image.resize(size, clean)))


def fit_strength(
    stem: PredictiveStem, summaries: Tensor, strengths: Tensor, channels: int = _CHANNELS, seed: int = 0
) -> PredictiveStem:
    """The stem, whose other weights stay, with a head of so many channels that tells the strength of a degradation.

    Learned from the `summaries` (N, summary_channels) and the `strengths` (N,) of N images.
    """
    torch.manual_seed(seed)
    first = nn.Linear(summaries.shape[1], channels)
    head = nn.Sequential(first, nn.SiLU(), nn.Linear(channels, 1))
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=1e-2)
    schedule = CosineAnnealingLR(optimizer, _STEPS)
    fit_standardised(
        first,
        summaries,
        lambda seen, drawn: F.mse_loss(head(seen)[:, 0], strengths[drawn]),
        schedule,
        steps=_STEPS,
        batch=_BATCH,
        least_deviation=1e-6,
    )
    config = replace(stem.config, strength_channels=channels)
    state = {**stem.state_dict(), **head.state_dict(prefix="strength_head.")}
    return PredictiveStem.from_state(config, state, "fitted")


def fit_standardised(
    first: nn.Linear,
    inputs: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    schedule: LRScheduler,
    *,
    steps: int,
    batch: int,
    least_deviation: float,
) -> None:
    """Fit a head on standardised `inputs` (N, C); in the end its layer `first` takes inputs as they are.

    Args:
        loss: of rows (batch, C) of the standardised inputs, which have these numbers (batch,).
        schedule: that of the optimizer of all the head's weights.
    """
    mean, deviation = inputs.mean(0), inputs.std(0).clamp(min=least_deviation)
    standardised = (inputs - mean) / deviation
    for _ in range(steps):
        drawn = torch.randint(len(standardised), (batch,))
        schedule.optimizer.zero_grad()
        loss(standardised[drawn], drawn).backward()  # type: ignore[no-untyped-call]
        schedule.optimizer.step()
        schedule.step()
    with torch.no_grad():
        first.weight.div_(deviation)
        first.bias.sub_(first.weight @ mean)


def explained(stem: PredictiveStem, summaries: Tensor, strengths: Tensor) -> float:
    """Share of the variance of `strengths` (N,) that the stem tells from `summaries` (N, summary_channels)."""
    assert stem.strength_head is not None
    with torch.no_grad():
        error = stem.strength_head(summaries)[:, 0] - strengths
    return 1 - float(error.square().mean() / strengths.var(correction=0))


def _some_parts(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, rng: np.random.Generator
) -> ImageArray:
    """Blur, a resize, noise and compression, each of them or not."""
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, _LARGEST_BLUR))))
    image = image.resize(size, resampling)
    if rng.random() < 0.4:
        channels = 3 if rng.random() < 0.6 else 1
        noise = rng.normal(0, rng.uniform(0, _LARGEST_NOISE), (image.height, image.width, channels))
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).round().astype(np.uint8))
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(50, 100)), subsampling=int(rng.choice([0, 2])))
        image = Image.open(file).convert("RGB")
    return to_unit(image)


def _crop(photo: NDArray[np.uint8], rng: np.random.Generator, scale: int) -> ImageArray:
    """At most 80 LR pixels a side, somewhere. Raises ValueError for a photo that has none."""
    if min(photo.shape[:2]) < scale:
        raise ValueError(f"data.folders: a photo of less than {scale} pixels a side: leave it out")
    height, width = (min(80 * scale, side // scale * scale) for side in photo.shape[:2])
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    crop = photo[top : top + height, left : left + width]
    return to_unit(crop)


@torch.inference_mode()
def _observed(stem: PredictiveStem, files: list[Path], images: int, seed: int) -> tuple[Tensor, Tensor]:
    summaries, strengths, scale = [], [], stem.config.scale
    for index in range(images):
        rng = np.random.default_rng([seed, index])
        hr = _crop(read_rgb(files[int(rng.integers(len(files)))]), rng, scale)
        lr, strength = degraded(hr, rng, scale)
        summaries.append(stem.summary_of(to_tensor(lr)[None])[0])
        strengths.append(strength)
    return torch.stack(summaries), torch.tensor(strengths)
