"""Training pairs on the fly: a photo, a crop, a degradation, all decided by (seed, index) alone.

Nothing depends on workers or on what was drawn before, so a resumed run sees exactly the samples it would have seen.
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
    """The mix itself. Raises ValueError if one of it is unknown or cannot be used, or two are called the same."""
    names: dict[str, str] = {}
    for name in mix:
        named_degradation(name)
        if (other := names.setdefault(label(name), name)) != name:
            raise ValueError(f"{other} and {name} are both called {label(name)}: rename one")
    return mix


class DataConfig(Section):
    """HR photos, and how they are cut and degraded into training pairs."""

    folders: dict[Path, Weight] = Field({})
    """Folder of HR images -> how often it is drawn, relative to its number of pixels."""
    shards: dict[str, Weight] = Field({})
    """WebDataset shards, likewise: a tar file, a folder of them, or a pattern as `set-{000..012}.tar`."""
    degradations: dict[str, Weight] = Field({"realesrgan": 1.0}, min_length=1)
    """Preset, or YAML file of one's own (`images/degradation_choice.py`) -> share of the samples."""
    lr_crop: int = Field(48, ge=8)
    """Side of the square LR crop in pixels; the HR crop is `scale` times larger."""
    workers: int = Field(1, ge=0)
    """Processes that load and, unless the device does, degrade; 0 does it in the training process."""
    degrade_on: Literal["workers", "device"] = "workers"
    """Who degrades: the workers, image by image, or the training device, a batch at once. The ranges are the same,
    the random numbers are not."""
    best_share: float = Field(1.0, gt=0, le=1)
    """Draw from this share of the photos only, those that `best_by` puts first. Below 1 every photo is decoded once at
    the start."""
    best_by: str = DETAIL
    """`detail` (`detail_score`), or a metric of `linearsr eval` that needs no reference, e.g. `niqe` or `musiq`."""
    scores: Path | None = None
    """Folder where the scores of `best_by` are kept for other runs and processes, as `musiq.json`."""
    tags: Path | None = None
    """JSON file with the tags of photos, `{"folder/photo.jpg": ["tag", ...], ...}`, relative to its own folder."""
    cache_gib: float = Field(2.0, ge=0)
    """GiB of decoded photos that the workers of one training process keep, each an even share of it."""

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
    """The photos that a run would draw from, by their headers, which are read once. Raises as `read_catalogue`."""
    folders, shards = tuple(config.folders.items()), tuple(config.shards.items())
    return read_catalogue(folders, shards, config.lr_crop * scale)


class Sample(NamedTuple):
    """A training pair."""

    lr: Tensor
    """(3, c, c) in [-1, 1]; empty where the device degrades: `CropPairs.complete` makes it from the batch."""
    hr: Tensor
    """(3, c * scale, c * scale) in [-1, 1]"""
    tags: Tensor
    """(V,): 1 for the tags of the photo, 0 for the others."""
    number: Tensor
    """(): which sample of the run it is."""
    latent: Tensor
    """(C, h', w') of the DC-AE, from the shard; empty where the codec makes it from `hr`."""


class PhotoCache:
    """Decoded photos of a catalogue, (H, W, 3) uint8; the least recently used goes first.

    A photo larger than `max_bytes`, the limit of what is kept, is read each time.
    """

    def __init__(self, catalogue: Catalogue, max_bytes: int) -> None:
        self.catalogue, self.max_bytes, self.bytes = catalogue, max_bytes, 0
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Raises ImageError if the photo turns out broken."""
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
    """`length` training pairs; c is `config.lr_crop`, V the number of known tags, 0 without `photo_tags`.

    With `latents`, where every crop in shards has its own and is as large as a sample, these are read. Such samples are
    whole crops as they are; others are cut at random, turned and mirrored.

    A photo that turns out broken when it is decoded is named in the log, once, and another one is drawn instead.
    Raises ConfigError if there is nothing to draw from.
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
        # shared with the workers, so that each broken photo is named once
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
        """The LR images (B, 3, c, c) in [-1, 1] of a batch, made now on the device unless the workers made them.

        Each follows from the seed, its index and its HR image.
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
        """The number of a photo, the whole photo, its latent (empty: not used), and the generator that drew it."""
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
        raise ConfigError(f"{key}: {_MAX_ATTEMPTS} photos drawn in a row are broken: get the photos anew")


def batches(pairs: CropPairs, first: int, size: int) -> DataLoader[Sample]:
    """Batches of samples from number `first` on, loaded by `data.workers`, each of which has one thread as usual."""
    rest, workers = Subset(pairs, range(first, len(pairs))), pairs.config.workers
    return DataLoader(rest, size, num_workers=workers, pin_memory=torch.cuda.is_available())


def to_unit(image: Image.Image | NDArray[np.uint8]) -> ImageArray:
    """8-bit pixels -> [0, 1]."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def to_tensor(image: ImageArray) -> Tensor:
    """(H, W, 3) in [0, 1] -> (3, H, W) in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).contiguous() * 2 - 1
