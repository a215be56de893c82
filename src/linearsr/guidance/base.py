"""Guidance: the interfaces of who says what is in a picture and of what makes tokens of it, and the way through both.

Shapes: B images, h w LR size, L tokens of C channels.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from linearsr.guidance.vocabulary import Understood

GuidanceKind = Literal["none", "tags", "text", "clip", "dino", "features"]
"""What the paper compares (LinearSR, table 4): nothing, short tags, sentences, and two kinds of visual features."""


class Tag(NamedTuple):
    """A short name of something in a picture."""

    name: str
    score: float
    """How sure the tagger is, 0 to 1; 1 for a tag that the user gave."""


class GuidanceTokens(NamedTuple):
    """What the network's cross-attention looks at."""

    embeds: Tensor
    """(B, L, C)"""
    mask: Tensor | None = None
    """(B, L), 1 for a token and 0 for padding; None: all are tokens. A row without any token has no guidance."""


def tokens_for(
    count: int, embeds: Tensor | None, mask: Tensor | None = None, channels: int | None = None
) -> list[GuidanceTokens | None]:
    """Guidance tokens (1, L, C) and mask (1, L) for each of `count` images, from those of one or of all.

    Raises ValueError for shapes that do not fit each other, the number of images or `channels`, which C must be.
    """
    if embeds is None:
        if mask is not None:
            raise ValueError("guidance_mask needs guidance_embeds")
        return [None] * count
    if embeds.ndim != 3 or embeds.shape[0] not in (1, count):
        raise ValueError(
            f"guidance_embeds {tuple(embeds.shape)} for {count} images: give (1, L, C) or (images, L, C)"
        )
    if channels is not None and embeds.shape[2] != channels:
        raise ValueError(f"guidance_embeds have {embeds.shape[2]} channels, and the model takes {channels}")
    if mask is not None and mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"guidance_mask {tuple(mask.shape)} must be {tuple(embeds.shape[:2])}, as its tokens"
        )
    rows = [slice(i, i + 1) if len(embeds) == count else slice(0, 1) for i in range(count)]
    return [GuidanceTokens(embeds[row], None if mask is None else mask[row]) for row in rows]


class Part(Protocol):
    """What a model's folder and the pipeline ask of every part."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert, as `torch.nn.Module.to`."""

    def save_pretrained(self, folder: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write config and weights into `folder`."""


class Guidance(Part, Protocol):
    """One kind of guidance. `none` is the absence of one."""

    config: Any
    kind: GuidanceKind
    uses_tags: bool = False
    """Whether it looks at the tags; otherwise it looks at the picture."""

    @property
    def channels(self) -> int:
        """C of a token: must be the `caption_channels` of the network."""
        return int(self.config.channels)

    @property
    def wants_sentences(self) -> bool:
        """Whether a sentence tells it of each picture, which no tagger writes."""
        return False

    def understand(self, words: Sequence[str]) -> Understood:
        """The tags that words mean here, and the words that mean none or are too many."""
        return Understood([], list(words))

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens | None:
        """The tokens for LR images (B, 3, h, w) in [-1, 1] and their tags, B lists; None where there is no guidance."""


class Scores(NamedTuple):
    """What a tagger makes of one picture: a score (V,), 0 to 1, for each of V tags, and the least that will do."""

    names: Sequence[str]
    scores: Tensor
    least: float | Sequence[float]
    """One for all, or one for each."""


class Tagger(Part, Protocol):
    """Says what is in a picture."""

    config: Any
    """Its `max_tags` is the tagger's own number."""

    def scores(self, lr: Tensor) -> Scores:
        """What it makes of one LR image (3, h, w) in [-1, 1]."""

    def tag(self, lr: Tensor, *, threshold: float | None = None, max_tags: int | None = None) -> list[Tag]:
        """Tags of one LR image (3, h, w) in [-1, 1], the surest first.

        `threshold`, 0 to 1, is the least score in place of each tag's own; at most `max_tags` are given. Raises
        ValueError for a threshold outside 0 to 1, or a negative number.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold:g} is out of range: choose from 0 to 1")
        most: int = self.config.max_tags if max_tags is None else max_tags
        if most < 0:
            raise ValueError(f"{most} tags: at least 0 can be asked for")
        names, scores, own = self.scores(lr)
        least = scores.new_tensor(own if threshold is None else threshold).expand_as(scores)
        order = scores.argsort(descending=True, stable=True).tolist()
        kept = [number for number in order if scores[number] >= least[number]]
        return [Tag(names[number], float(scores[number])) for number in kept[:most]]


def guide(
    lr: Tensor, guidance: Guidance, tagger: Tagger | None, words: Sequence[str], add: bool
) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
    """The tokens for an LR image (1, 3, h, w) in [-1, 1], None for no guidance, and the tags behind them.

    These are the caller's `words`, joined by those that the tagger finds where it is to `add` them.
    """
    if not guidance.uses_tags:
        return guidance.encode(lr, [[]]), ()
    asked = add and not guidance.wants_sentences
    found = [tag.name for tag in tagger.tag(lr[0])] if asked and tagger is not None else []
    # the caller's first: where there are too many, they stay
    tags = guidance.understand([*words, *found]).tags
    return (guidance.encode(lr, [tags]) if tags else None), tuple(tags)


def prepare(guidance: Guidance, tagger: Tagger | None, words: Sequence[str], add: bool) -> None:
    """Read the encoders that `guide` would use, so that what is wrong with one shows before the first image.

    Raises ImportError if a library is not installed, CheckpointError if an encoder is missing, damaged or does not fit.
    """
    from linearsr.guidance.encoders import EncoderPart

    if isinstance(guidance, EncoderPart) and (words or add or not guidance.uses_tags):
        guidance.prepare()
    if isinstance(tagger, EncoderPart) and guidance.uses_tags and add and not guidance.wants_sentences:
        tagger.prepare()
