"""Training pairs made on the fly: the photo, crop and degradation of each follow from (seed, index) alone.

Nothing depends on workers or on earlier draws, so a resumed run sees the samples of an uninterrupted one.
"""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from linearsr.evaluation.registry import known_metric
from linearsr.images.degradation import ImageArray, degrade, degrade_batch
from linearsr.images.degradation_choice import label, named_degradation
from linearsr.images.picture import ImageError
from linearsr.training.best import DETAIL, best_photos
from linearsr.training.catalogue import Catalogue, read_catalogue
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.section import ConfigError, Section

logger = logging.getLogger(__name__)

Weight = Annotated[float, Field(gt=0)]

_MAX_ATTEMPTS = 50
_DEVICE_STREAM = _MAX_ATTEMPTS


def known_degradations(mix: dict[str, float]) -> dict[str, float]:
    """Return the mix itself, once checked.

    Raises ValueError: when a degradation is unknown or cannot be used, or two have the same label.
    """
    names: dict[str, str] = {}
    for name in mix:
        named_degradation(name)
        if (other := names.setdefault(label(name), name)) != name:
            raise ValueError(f"{other} and {name} are both called {label(name)}: rename one")
    return mix


class DataConfig(Section):
    """The HR photos to train on, and how they are cut and degraded into training pairs."""

    folders: dict[Path, Weight] = Field({})
    """Folder of HR images -> weight: how often it is drawn, relative to its number of pixels."""
    shards: dict[str, Weight] = Field({})
    """WebDataset shards -> weight: a tar file, a folder of them, or a pattern like `set-{000..012}.tar`."""
    degradations: dict[str, Weight] = Field({"realesrgan": 1.0}, min_length=1)
    """Preset, or your own YAML file (`images/degradation_choice.py`) -> relative share of the samples."""
    lr_crop: int = Field(48, ge=8)
    """Side of the square LR crop in pixels; the HR crop is `scale` times larger."""
    workers: int = Field(1, ge=0)
    """Processes that load images, and degrade them unless the device does; 0 uses the training process."""
    degrade_on: Literal["workers", "device"] = "workers"
    """Where images are degraded: one by one in the workers, or a batch at a time on the training device. The
    parameter ranges are the same, the random numbers differ."""
    best_share: float = Field(1.0, gt=0, le=1)
    """Share of the photos to draw from, those that `best_by` ranks first. Below 1, every photo is decoded
    once at the start."""
    best_by: str = DETAIL
    """`detail` (`detail_score`), or a no-reference metric of `linearsr eval`, e.g. `niqe` or `musiq`."""
    scores: Path | None = None
    """Folder that keeps the scores of `best_by` for other runs and processes, e.g. in `musiq.json`."""
    tags: Path | None = None
    """JSON file of tags, `{"folder/photo.jpg": ["tag", ...], ...}`, with paths relative to its own folder."""
    cache_gib: float = Field(2.0, ge=0)
    """GiB of decoded photos kept per training process, divided evenly among its workers."""

    _check_degradations = field_validator("degradations")(known_degradations)

    @field_validator("best_by")
    @classmethod
    def _known_score(cls, name: str) -> str:
        return known_metric(name, ["no-reference"], (DETAIL,))

    @model_validator(mode="after")
    def _has_a_source(self) -> "DataConfig":
        if not self.folders and not self.shards:
            raise ValueError("give at least one of folders and shards")
        return self


def check_data(config: DataConfig, scale: int) -> Catalogue:
    """Return the photos that a run would draw from; reads each header once. Raises as `read_catalogue`."""
    folders, shards = tuple(config.folders.items()), tuple(config.shards.items())
    return read_catalogue(folders, shards, config.lr_crop * scale)


class Sample(NamedTuple):
    """A training pair."""

    lr: Tensor
    """(3, c, c) in [-1, 1]; empty if the device degrades: `CropPairs.complete` makes it for the batch."""
    hr: Tensor
    """(3, c * scale, c * scale) in [-1, 1]"""
    tags: Tensor
    """(V,): 1 for the tags of the photo, 0 for the others."""
    number: Tensor
    """(), the index of the sample in the run."""
    latent: Tensor
    """(C, h', w'), the DC-AE latent stored in the shard; empty if the codec computes it from `hr`."""


class PhotoCache:
    """A cache of a catalogue's decoded photos, (H, W, 3) uint8, which drops the least recently used first.

    It keeps at most `max_bytes`; a photo larger than that is read each time.
    """

    def __init__(self, catalogue: Catalogue, max_bytes: int) -> None:
        self.catalogue, self.max_bytes, self.bytes = catalogue, max_bytes, 0
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return a photo, from memory if it is kept. Raises ImageError: when the photo is broken."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        photo = self.catalogue[index].read()
        if photo.nbytes <= self.max_bytes:
            self._kept[index] = photo
            self.bytes += photo.nbytes
        while self.bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= dropped.nbytes
        return photo


class CropPairs(Dataset[Sample]):
    """A dataset of `length` training pairs; c is `config.lr_crop`.

    V is the number of known tags, 0 without `photo_tags`. With `latents`, stored latents are read if every
    photo is a crop of the right size that has one. Crops are then used whole and unchanged; otherwise photos
    are cropped, rotated and mirrored at random.

    A photo that fails to decode is logged once, and another one is drawn instead.
    Raises ConfigError: when there is nothing to draw from.
    """

    def __init__(
        self,
        config: DataConfig,
        scale: int,
        seed: int,
        length: int,
        photo_tags: PhotoTags | None = None,
        latents: bool = False,
    ) -> None:
        self.config, self.scale, self.seed, self.length = config, scale, seed, length
        self.photo_tags = photo_tags
        wanted = config.best_share, config.best_by, config.scores
        self.catalogue = best_photos(check_data(config, scale), *wanted)
        self.latents = latents and self.catalogue.has_latents(config.lr_crop * scale)
        cumulative = np.cumsum(self.catalogue.table["weight"] * self.catalogue.areas)
        self.cumulative = cumulative / cumulative[-1]
        self.cache = PhotoCache(self.catalogue, int(config.cache_gib * 2**30 / max(1, config.workers)))
        # shared with the workers, so that each broken photo is logged once
        self._broken = torch.zeros(len(self.catalogue), dtype=torch.bool)
        self._broken.share_memory_()  # type: ignore[no-untyped-call]
        shares = np.array(list(config.degradations.values()), dtype=np.float64)
        self.degradations = [named_degradation(name) for name in config.degradations]
        self.shares = shares / shares.sum()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        number, photo, latent, rng = self._draw(index)
        size = self.config.lr_crop * self.scale
        top = int(rng.integers(photo.shape[0] - size + 1))
        left = int(rng.integers(photo.shape[1] - size + 1))
        crop = photo[top : top + size, left : left + size]
        if not self.latents:
            crop = np.rot90(crop, k=int(rng.integers(4)))
            crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        hr = to_unit(np.ascontiguousarray(crop))
        lr = torch.empty(0)
        if self.config.degrade_on == "workers":
            lr = to_tensor(degrade(hr, self.degradations[self._draw_degradation(rng)], rng, self.scale))
        tags = torch.empty(0) if self.photo_tags is None else self.photo_tags.bag(self.catalogue[number].name)
        return Sample(lr, to_tensor(hr), tags, torch.tensor(index), latent)

    def complete(self, samples: Sample) -> Tensor:
        """Return the LR images (B, 3, c, c) in [-1, 1] of a batch; degrade here unless the workers did.

        Each depends only on the seed, its index and its HR image.
        """
        if self.config.degrade_on == "workers":
            return samples.lr
        hr, indices = samples.hr, samples.number.tolist()
        rngs = [np.random.default_rng([self.seed, index, _DEVICE_STREAM]) for index in indices]
        kinds = [self._draw_degradation(rng) for rng in rngs]
        crop = self.config.lr_crop
        made = hr.new_empty(len(hr), 3, crop, crop)
        for kind in set(kinds):
            which = [i for i, other in enumerate(kinds) if other == kind]
            unit = (hr[which] + 1) / 2
            made[which] = degrade_batch(unit, self.degradations[kind], [rngs[i] for i in which], self.scale)
        return made * 2 - 1

    def _draw_degradation(self, rng: np.random.Generator) -> int:
        return int(rng.choice(len(self.shares), p=self.shares))

    def _draw(self, index: int) -> tuple[int, NDArray[np.uint8], Tensor, np.random.Generator]:
        """Draw a photo: return its number, pixels, latent (empty if not used) and the random generator."""
        for attempt in range(_MAX_ATTEMPTS):
            rng = np.random.default_rng([self.seed, index, attempt])
            number = int(np.searchsorted(self.cumulative, rng.random()))
            if self._broken[number]:
                continue
            try:
                latent = torch.from_numpy(self.catalogue[number].latent()) if self.latents else torch.empty(0)
                return number, self.cache[number], latent, rng
            except ImageError as error:
                self._broken[number] = True
                logger.warning("skipped: %s", error)
        key = "data.folders" if self.config.folders else "data.shards"
        raise ConfigError(f"{key}: {_MAX_ATTEMPTS} photos drawn in a row are broken: get new copies of them")


def batches(pairs: CropPairs, first: int, size: int) -> DataLoader[Sample]:
    """Return a loader of batches from sample `first` on, with `data.workers` processes of one thread each."""
    rest, workers = Subset(pairs, range(first, len(pairs))), pairs.config.workers
    return DataLoader(rest, size, num_workers=workers, pin_memory=torch.cuda.is_available())


def to_unit(image: Image.Image | NDArray[np.uint8]) -> ImageArray:
    """Convert 8-bit pixels to float32 in [0, 1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def to_tensor(image: ImageArray) -> Tensor:
    """Convert an image (H, W, 3) in [0, 1] to a tensor (3, H, W) in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous() * 2 - 1
