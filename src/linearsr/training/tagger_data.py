"""Samples for a tagger: nearly whole photos, squeezed to a square, degraded, and augmented hard.

Tags belong to a whole photo, so it is degraded as a whole, in a few versions that are made once: to degrade costs many
times what a training step of a tagger does. A sample is a large crop of such a version, in other colours. As in
`data.py`, the seed and its number alone decide a sample.
"""

import logging
import zlib
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from linearsr.images.degradation import ImageArray, degrade
from linearsr.images.io import ImageError
from linearsr.training.data import CropPairs, DataConfig, Sample, to_tensor, to_unit
from linearsr.training.photo_tags import PhotoTags
from linearsr.training.section import ConfigError, Section

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 50
_VERSION_STREAM = 1
_MIXUP_CONCENTRATION = 0.4


class Augmentation(Section):
    """How a version of a photo becomes a sample. Shares are of the samples."""

    least_area: float = Field(0.4, gt=0, le=1)
    """Of a crop, as a share of the photo."""
    aspect: float = Field(0.3, ge=0)
    """A crop's aspect ratio is up to exp(aspect) times that of the photo, or one such part of it."""
    colour: float = Field(0.3, ge=0, le=0.6)
    """Strength of the changes of brightness, contrast, saturation and white balance."""
    cutout: float = Field(0.5, ge=0, le=1)
    """Share in which a rectangle is grey (arXiv 1708.04552)."""
    mixup: float = Field(0.5, ge=0, le=1)
    """Share that is blended from two photos, and so are their tags (arXiv 1710.09412)."""


def is_held_out(name: str, share: float) -> bool:
    """Whether a photo is kept from training, by its file name alone; about `share` of all photos are."""
    return zlib.crc32(PurePath(name).name.encode("utf-8", "surrogateescape")) % 1000 < 1000 * share


class TagSamples(CropPairs):
    """`length` samples of a view (3, side, side) in [-1, 1] and its tags (V,), from 0 to 1; they have no HR image.

    Photos are drawn evenly, whatever their size, those of a folder as often as its weight says. `lr_crop` is the side
    of the square that a whole photo is degraded to. Photos without tags are not drawn.

    Each photo is degraded in so many `versions`; the share `held_out` of them is kept from training. The rest is as in
    `CropPairs`.

    Raises:
        ConfigError: there is nothing to draw from.
    """

    photo_tags: PhotoTags

    def __init__(
        self,
        config: DataConfig,
        scale: int,
        seed: int,
        length: int,
        photo_tags: PhotoTags,
        *,
        side: int,
        versions: int,
        augmentation: Augmentation,
        held_out: float,
    ) -> None:
        super().__init__(config, scale, seed, length, photo_tags)
        self.side, self.versions, self.augmentation = side, versions, augmentation
        names = [self.catalogue[number].name for number in range(len(self.catalogue))]
        tagged = np.array([bool(photo_tags.bag(name).any()) for name in names])
        held = np.array([is_held_out(name, held_out) for name in names])
        self._held_out = np.flatnonzero(tagged & held).tolist()
        cumulative = np.cumsum(self.catalogue.weights * (tagged & ~held))
        if cumulative[-1] == 0:
            raise ConfigError("data.tags: no photo to train on has tags of the vocabulary")
        self.cumulative = cumulative / cumulative[-1]
        self._kept: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, index])
        view, tags = self._view(rng)
        if rng.random() < self.augmentation.mixup:
            share = rng.beta(_MIXUP_CONCENTRATION, _MIXUP_CONCENTRATION)
            other, other_tags = self._view(rng)
            view, tags = torch.lerp(view, other, share), torch.lerp(tags, other_tags, share)
        return Sample(view, torch.empty(0), tags, torch.tensor(index))

    def complete(self, samples: Sample) -> Tensor:
        """The views of a batch, which are whole already: (B, 3, side, side)."""
        return samples.lr

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(lr (3, c, c), tags (V,)) of every version of every photo that is kept from training, not augmented."""
        for number in self._held_out:
            tags = self.photo_tags.bag(self.catalogue[number].name)
            try:
                for which in range(self.versions):
                    yield to_tensor(to_unit(self._version(number, which))), tags
            except ImageError as error:
                logger.warning("skipped: %s", error)

    def _view(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        number, version = self._draw_version(rng)
        view = augmented(version, self.side, self.augmentation, rng)
        return to_tensor(view), self.photo_tags.bag(self.catalogue[number].name)

    def _draw_version(self, rng: np.random.Generator) -> tuple[int, NDArray[np.uint8]]:
        for _ in range(_MAX_ATTEMPTS):
            # both drawn for each photo, so that a sample does not depend on which were known to be broken
            number = int(np.searchsorted(self.cumulative, rng.random()))
            which = int(rng.integers(self.versions))
            if self._broken[number]:
                continue
            try:
                return number, self._version(number, which)
            except ImageError as error:
                self._broken[number] = True
                logger.warning("skipped: %s", error)
        raise ConfigError(f"data: {_MAX_ATTEMPTS} photos drawn in a row are broken: get the photos anew")

    def _version(self, number: int, which: int) -> NDArray[np.uint8]:
        """(c, c, 3): a photo, squeezed to a square and degraded. Raises ImageError if it cannot be read."""
        if (number, which) in self._kept:
            return self._kept[number, which]
        rng = np.random.default_rng([self.seed, number, which, _VERSION_STREAM])
        side = self.config.lr_crop * self.scale
        square = Image.fromarray(self.cache[number]).resize((side, side), Image.Resampling.BICUBIC)
        lr = degrade(to_unit(square), self.degradations[self._draw_degradation(rng)], rng, self.scale)
        version = (lr * 255).round().astype(np.uint8)
        if (len(self._kept) + 1) * version.nbytes <= self.config.cache_gib * 2**30:
            self._kept[number, which] = version
        return version


def augmented(
    photo: NDArray[np.uint8], side: int, settings: Augmentation, rng: np.random.Generator
) -> ImageArray:
    """A large crop (side, side, 3) in [0, 1] of a square photo (c, c, 3), perhaps mirrored, in other colours."""
    full = len(photo)
    root, stretch = (
        np.sqrt(rng.uniform(settings.least_area, 1)),
        np.exp(rng.uniform(-0.5, 0.5) * settings.aspect),
    )
    width, height = (full * min(1.0, length) for length in (root * stretch, root / stretch))
    left, top = rng.uniform(0, full - width), rng.uniform(0, full - height)
    crop = Image.fromarray(photo).resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    view = to_unit(crop)
    if rng.random() < 0.5:
        view = view[:, ::-1]
    view = _recoloured(view, settings.colour, rng)
    if rng.random() < settings.cutout:
        height, width = (int(side * rng.uniform(0.15, 0.4)) for _ in range(2))
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        view[top : top + height, left : left + width] = 0.5
    return view


def _recoloured(image: ImageArray, strength: float, rng: np.random.Generator) -> ImageArray:
    """With another saturation, contrast, brightness and white balance, clipped to [0, 1]."""
    saturation, contrast = 1 + strength * rng.uniform((-1.5, -1), (1.5, 1))
    shift = strength * (rng.uniform(-0.5, 0.5) + 0.15 * rng.uniform(-1, 1, size=3))
    grey, mean = image.mean(axis=2, keepdims=True), image.mean()
    saturated = grey + (image - grey) * saturation
    changed = (saturated - mean) * contrast + mean + shift
    recoloured: ImageArray = np.clip(changed, 0, 1).astype(np.float32)
    return recoloured
