"""The tagger of the default model: small enough to be part of it, and trained on degraded photos."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from linearsr.guidance.base import Tag, best_tags
from linearsr.guidance.vocabulary import Vocabulary
from linearsr.models.tagger import TaggerNetwork, resized_to_square
from linearsr.runtime.checkpoints import PretrainedModule


@dataclass(frozen=True)
class OwnTaggerConfig:
    """`OwnTagger`."""

    vocabulary: tuple[str, ...] = ()
    """Known tags, in the order of the network's outputs."""
    thresholds: tuple[float | None, ...] = ()
    """The least score of each tag, 0 to 1; None: the tag is not offered, as the network does not know it well enough.
    Empty: 0.5 for all."""
    max_tags: int = 10
    """At most so many tags for a photo."""
    image_size: int = 192
    """Side of the square that a photo is resized to."""
    num_blocks: int = 13
    """Of EfficientNet-Lite0's 16."""

    def __post_init__(self) -> None:
        # JSON has lists only
        object.__setattr__(self, "vocabulary", Vocabulary(self.vocabulary).tags)
        object.__setattr__(self, "thresholds", tuple(self.thresholds) or (0.5,) * len(self.vocabulary))
        if len(self.thresholds) != len(self.vocabulary):
            raise ValueError(f"{len(self.thresholds)} thresholds for {len(self.vocabulary)} tags")
        if any(least is not None and not 0 <= least <= 1 for least in self.thresholds):
            raise ValueError("thresholds must be from 0 to 1")
        for name, least in (("max_tags", 0), ("image_size", 1), ("num_blocks", 2)):
            number = getattr(self, name)
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")


class OwnTagger(PretrainedModule):
    """Tags of a photo from its LR version, by a network that looks at a square of bounded size."""

    config_class: ClassVar[type[OwnTaggerConfig]] = OwnTaggerConfig
    config: OwnTaggerConfig

    def __init__(self, config: OwnTaggerConfig) -> None:
        super().__init__()
        self.config = config
        self.network = TaggerNetwork(len(config.vocabulary), config.num_blocks)
        known = zip(config.vocabulary, config.thresholds, strict=True)
        self.offered = {tag: least for tag, least in known if least is not None}
        """The least score of each tag that it may give."""
        self._numbers = [config.vocabulary.index(tag) for tag in self.offered]

    def forward(self, lr: Tensor) -> Tensor:
        """LR images (B, 3, h, w) in [-1, 1], of any size -> logits (B, V) of all known tags, in float32."""
        logits: Tensor = self.network(resized_to_square(lr, self.config.image_size))
        return logits

    @torch.inference_mode()
    def tag(self, lr: Tensor, *, threshold: float | None = None, max_tags: int | None = None) -> list[Tag]:
        """Tags of one LR image (3, h, w) in [-1, 1], the surest first; scores are probabilities.

        Args:
            threshold: the least score, for every offered tag in place of its own.
            max_tags: at most so many, in place of the tagger's own number.

        Raises:
            ValueError: a threshold outside 0 to 1, or a negative number.
        """
        scores = self(lr[None].to(self.network.head.weight.device))[0].sigmoid().cpu()[self._numbers]
        names, limits = list(self.offered), list(self.offered.values())
        return best_tags(scores, names, limits, self.config.max_tags, threshold=threshold, max_tags=max_tags)
