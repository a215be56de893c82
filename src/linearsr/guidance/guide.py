"""What a caller says about tags, and from that and one image to the tokens for the network."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from linearsr.guidance.base import Guidance, GuidanceTokens, Tagger
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.vocabulary import split_tags

IGNORES_TAGS = "does not listen to tags: results are as without them"


class TagRequest(NamedTuple):
    """The caller's words, and whether the tags that the tagger finds join them."""

    words: tuple[str, ...] = ()
    add: bool = False

    @classmethod
    def parse(cls, tags: str | Sequence[str] | None, use_tags: bool = False) -> "TagRequest":
        """From "brick wall, ivy" or a list of such texts.

        They take the place of the tags that are found; with a plus before the first, "+ivy, moss", they join them. An
        empty text or list asks for no tags. None leaves it to the model: found tags where it is to `use_tags`.

        Raises:
            ValueError: neither a text nor a list of texts.
        """
        if tags is None:
            return cls(add=use_tags)
        parts = list(tags) if isinstance(tags, Sequence) and not isinstance(tags, str) else [tags]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"tags must be a text such as 'brick wall, ivy' or a list of texts, not {tags!r}"
            )
        # a command line may hold bytes that are no text, which no encoder takes
        words = [
            word for part in parts for word in split_tags(part.encode("utf-8", "replace").decode("utf-8"))
        ]
        add = bool(words) and words[0].startswith("+")
        if add:
            words = [word.removeprefix("+").strip() for word in words]
        return cls(tuple(word for word in words if word), add)


def guide(
    lr: Tensor, guidance: Guidance, tagger: Tagger | None, request: TagRequest
) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
    """The tokens for an LR image (1, 3, h, w) in [-1, 1], None for no guidance, and the tags behind them."""
    if not guidance.uses_tags:
        return guidance.encode(lr, [[]]), ()
    asked = request.add and not guidance.wants_sentences
    found = [tag.name for tag in tagger.tag(lr[0])] if asked and tagger is not None else []
    # the caller's first: where there are too many, they stay
    tags = guidance.understand([*request.words, *found]).tags
    return (guidance.encode(lr, [tags]) if tags else None), tuple(tags)


def prepare(guidance: Guidance | None, tagger: Tagger | None, request: TagRequest) -> None:
    """Read the encoders that `guide` would use, so that what is wrong with one shows before the first image.

    Raises:
        ImportError: a library that an encoder needs is not installed.
        CheckpointError: an encoder is missing, damaged or does not fit.
    """
    used: list[Guidance | Tagger | None] = []
    if guidance is not None and (request.words or request.add or not guidance.uses_tags):
        used.append(guidance)
    if guidance is not None and guidance.uses_tags and request.add and not guidance.wants_sentences:
        used.append(tagger)
    for part in used:
        if isinstance(part, EncoderPart):
            part.prepare()
