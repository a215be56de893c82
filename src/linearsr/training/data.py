"""Training pairs on the fly: a photo, a crop, a degradation, all decided by (seed, index) alone.

Nothing depends on workers or on what was drawn before, so a resumed run sees exactly the samples it would have seen.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor
from torch.utils.data import Dataset

from linearsr.images.degradation import PRESETS, ImageArray, degrade
from linearsr.images.files import list_images
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.training.section import ConfigError, Section


def known_degradations(mix: dict[str, float]) -> dict[str, float]:
    """The mix itself. Raises ValueError, naming the first one, if it has unknown degradations."""
    unknown = sorted(set(mix) - set(PRESETS))
    if unknown:
        raise ValueError(f"unknown degradation {unknown[0]!r}: choose from {', '.join(PRESETS)}")
    return mix


class DataConfig(Section):
    """HR photos, and how they are cut and degraded into training pairs."""

    folders: dict[Path, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Folder of HR images -> how often it is drawn, relative to its number of pixels."""
    degradations: dict[str, Annotated[float, Field(gt=0)]] = Field({"realesrgan": 1.0}, min_length=1)
    """Degradation preset -> share of the samples."""
    lr_crop: int = Field(48, ge=8)
    """Side of the square LR crop in pixels; the HR crop is `scale` times larger."""
    workers: int = Field(1, ge=0)
    """Processes that load and degrade; 0 does it in the training process."""

    _check_degradations = field_validator("degradations")(known_degradations)


class CropPairs(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """(lr (3, c, c), hr (3, c * scale, c * scale), index ()), images in [-1, 1]; `length` of them."""

    def __init__(self, config: DataConfig, scale: int, seed: int, length: int) -> None:
        self.config, self.scale, self.seed, self.length = config, scale, seed, length
        hr_crop = config.lr_crop * scale
        self.photos: list[NDArray[np.uint8]] = []
        weights: list[float] = []
        for folder, weight in config.folders.items():
            for path in _photos(folder):
                photo = read_rgb(path)
                if min(photo.shape[:2]) < hr_crop:
                    continue
                self.photos.append(photo)
                weights.append(weight * photo.shape[0] * photo.shape[1])
        if not self.photos:
            raise ConfigError(f"data.folders: every photo is smaller than the HR crop of {hr_crop} px")
        self.weights = np.cumsum(weights) / np.sum(weights)
        shares = np.array(list(config.degradations.values()), dtype=np.float64)
        self.degradations = [PRESETS[name] for name in config.degradations]
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        photo = self.photos[int(np.searchsorted(self.weights, rng.random()))]
        size = self.config.lr_crop * self.scale
        top = int(rng.integers(photo.shape[0] - size + 1))
        left = int(rng.integers(photo.shape[1] - size + 1))
        crop = np.rot90(photo[top : top + size, left : left + size], k=int(rng.integers(4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        hr = np.ascontiguousarray(crop, dtype=np.float32) / np.float32(255)
        degradation = self.degradations[int(rng.choice(len(self.shares), p=self.shares))]
        lr = degrade(hr, degradation, rng, self.scale)
        return to_tensor(lr), to_tensor(hr), torch.tensor(index)


def to_tensor(image: ImageArray) -> Tensor:
    """(H, W, 3) in [0, 1] -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous() * 2 - 1


def validation_pairs(
    folder: Path, degradation: str, scale: int, max_pictures: int
) -> list[tuple[str, Tensor, Tensor]]:
    """(name, lr (3, h, w), hr (3, H, W)) in [-1, 1] for each photo, as `linearsr degrade --seed 0` makes them."""
    pairs = []
    for path in _photos(folder)[:max_pictures]:
        hr = crop_to_multiple(read_rgb(path), scale)
        lr = degrade(hr, PRESETS[degradation], file_generator(0, path.stem), scale)
        pairs.append((path.stem, to_tensor(lr), to_tensor(hr)))
    return pairs


def _photos(folder: Path) -> list[Path]:
    """Image files under `folder`, sorted. Raises ConfigError if there are none."""
    found = list_images(folder)
    if not found:
        raise ConfigError(f"{folder}: no images found: give a folder with HR photos")
    return found
