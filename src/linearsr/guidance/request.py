"""What a caller says about tags."""

from collections.abc import Sequence
from typing import NamedTuple

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
