"""From a caller's words and one image to the tokens for the network."""

from collections.abc import Sequence

from torch import Tensor

from linearsr.guidance.base import Guidance, GuidanceTokens, Tagger
from linearsr.guidance.encoders import EncoderPart


def guide(
    lr: Tensor, guidance: Guidance, tagger: Tagger | None, words: Sequence[str], add: bool
) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
    """The tokens for an LR image (1, 3, h, w) in [-1, 1], None for no guidance, and the tags behind them.

    Args:
        words: the caller's.
        add: whether the tags that the tagger finds join them.
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

    Raises:
        ImportError: a library that an encoder needs is not installed.
        CheckpointError: an encoder is missing, damaged or does not fit.
    """
    used: list[Guidance | Tagger | None] = []
    if words or add or not guidance.uses_tags:
        used.append(guidance)
    if guidance.uses_tags and add and not guidance.wants_sentences:
        used.append(tagger)
    for part in used:
        if isinstance(part, EncoderPart):
            part.prepare()
