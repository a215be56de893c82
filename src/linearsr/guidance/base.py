"""The interfaces of taggers and of guidance, and `guide`, which turns an image into tokens with both.

Shapes: B images, h w LR size, L tokens of C channels.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from linearsr.guidance.vocabulary import Understood

GuidanceKind = Literal["none", "tags", "text", "clip", "dino", "features"]
"""Kinds of guidance. The paper (LinearSR, table 4) compares none, tags, text and two kinds of features."""


class Tag(NamedTuple):
    """A short name of something in a picture."""

    name: str
    score: float
    """Confidence of the tagger, 0 to 1; 1 for a tag that the user gave."""


class GuidanceTokens(NamedTuple):
    """The tokens that the network's cross-attention attends to."""

    embeds: Tensor
    """Tokens (B, L, C)."""
    mask: Tensor | None = None
    """(B, L), 1 for a token and 0 for padding; None: all are tokens. A row without tokens has no guidance."""


def tokens_for(
    count: int, embeds: Tensor | None, mask: Tensor | None = None, channels: int | None = None
) -> list[GuidanceTokens | None]:
    """Return guidance tokens (1, L, C) and mask (1, L) for each of `count` images.

    `embeds` and `mask` are those of one image, which serve all, or of all images; without `embeds`, each
    image gets None. Raises ValueError if the shapes do not fit each other, the number of images, or
    `channels`, which C must equal.
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
    """The interface of every part, for a model's folder and the pipeline."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or convert, like `torch.nn.Module.to`."""

    def save_pretrained(self, folder: str | PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write config and weights into `folder`."""


class Guidance(Part, Protocol):
    """The interface of one kind of guidance; the kind "none" means that a model has no such part."""

    config: Any
    kind: GuidanceKind
    uses_tags: bool = False
    """Whether it uses the tags; otherwise it looks at the picture."""

    @property
    def channels(self) -> int:
        """Channels C of a token; must equal the `caption_channels` of the network."""
        return int(self.config.channels)

    @property
    def wants_sentences(self) -> bool:
        """Whether it needs a sentence about each picture, which no tagger writes."""
        return False

    def understand(self, words: Sequence[str]) -> Understood:
        """Return the tags that words mean here, and the words that mean none or are too many."""
        return Understood([], list(words))

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens | None:
        """Return tokens for LR images (B, 3, h, w) in [-1, 1] and B lists of tags; None: no guidance."""


class Scores(NamedTuple):
    """The output of a tagger for one picture: scores (V,), 0 to 1, of V tags, and the least score to give."""

    names: Sequence[str]
    scores: Tensor
    least: float | Sequence[float]
    """Least score at which a tag is given: one for all tags, or one per tag."""


class Tagger(Part, Protocol):
    """The interface of a tagger, which says what is in a picture."""

    config: Any
    """Its `max_tags` is the tagger's default for `tag`."""

    def scores(self, lr: Tensor) -> Scores:
        """Return the scores for one LR image (3, h, w) in [-1, 1]."""

    def tag(self, lr: Tensor, *, threshold: float | None = None, max_tags: int | None = None) -> list[Tag]:
        """Return the tags of one LR image (3, h, w) in [-1, 1], the most confident first.

        `threshold`, 0 to 1, replaces each tag's own least score; at most `max_tags` are returned. Raises
        ValueError if `threshold` is outside 0 to 1, or `max_tags` is negative.
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
    """Return the tokens for an LR image (1, 3, h, w) in [-1, 1], None for no guidance, and their tags.

    The tags are the caller's `words` and, if `add` is true, those that the tagger finds.
    """
    if not guidance.uses_tags:
        return guidance.encode(lr, [[]]), ()
    asked = add and not guidance.wants_sentences
    found = [tag.name for tag in tagger.tag(lr[0])] if asked and tagger is not None else []
    # the caller's words come first, so they are kept if there are too many
    tags = guidance.understand([*words, *found]).tags
    return (guidance.encode(lr, [tags]) if tags else None), tuple(tags)


def prepare(guidance: Guidance, tagger: Tagger | None, words: Sequence[str], add: bool) -> None:
    """Load the encoders that `guide` would use, so that errors show before the first image.

    Raises ImportError if a library is not installed, CheckpointError if an encoder is missing, damaged or
    does not fit.
    """
    from linearsr.guidance.encoders import EncoderPart

    if isinstance(guidance, EncoderPart) and (words or add or not guidance.uses_tags):
        guidance.prepare()
    if isinstance(tagger, EncoderPart) and guidance.uses_tags and add and not guidance.wants_sentences:
        tagger.prepare()
