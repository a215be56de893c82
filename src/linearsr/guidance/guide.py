"""From one image and what its owner says of it to the tokens for the network."""

from torch import Tensor

from linearsr.guidance.base import Guidance, GuidanceTokens, Tagger
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
