"""From one image and what its owner says of it to the tokens for the network."""

from torch import Tensor

from linearsr.guidance.base import Guidance, GuidanceTokens, Tagger
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.request import TagRequest


def guide(
    lr: Tensor, guidance: Guidance, tagger: Tagger | None, request: TagRequest
) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
    """The tokens for an LR image (1, 3, h, w) in [-1, 1], None for no guidance, and the tags behind them."""
    if not guidance.uses_tags:
        return guidance.encode(lr, [[]]), ()
    found = [tag.name for tag in tagger.tag(lr[0])] if request.add and tagger is not None else []
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
    if guidance is not None and guidance.uses_tags and request.add:
        used.append(tagger)
    for part in used:
        if isinstance(part, EncoderPart):
            part.prepare()
