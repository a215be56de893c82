"""The tags a model knows, and which of them a user's word means."""

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from linearsr.runtime.files import prefixed

_LEAST_LIKENESS = 0.8
_MAX_TAG_LENGTH = 100


class Understood(NamedTuple):
    """What a vocabulary makes of a user's words."""

    tags: list[str]
    """Known tags, each once, in the order of the words."""
    unknown: list[str]
    """Words that mean none of them."""


def normalised(word: str) -> str:
    """In compatible letters (NFKC), without case; hyphens, underscores and runs of blanks are one blank."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip()


def split_tags(text: str) -> list[str]:
    """The words of a list as users write it, "brick wall, ivy"; empty ones are left out."""
    return [word.strip() for word in re.split(r"[,;\n|]", text) if word.strip()]


class Vocabulary:
    """Known tags, in the order of a model's table. Raises ValueError for a tag that is empty or there twice."""

    def __init__(self, tags: Iterable[str]) -> None:
        self.tags = tuple(tags)
        self._index = {normalised(tag): i for i, tag in enumerate(self.tags)}
        if "" in self._index:
            raise ValueError("a vocabulary has no empty tags")
        if len(self._index) < len(self.tags):
            twice = next(tag for i, tag in enumerate(self.tags) if self._index[normalised(tag)] != i)
            raise ValueError(f"tag {twice!r} is in the vocabulary twice")

    def number(self, word: str) -> int | None:
        """The place of the tag that `word` means, by the first rule that finds one.

        1. The tag itself, `normalised`.
        2. Its plural: "trees", "churches" and "leaves" mean "tree", "church" and "leaf".
        3. Its last words, which name the thing that those before describe: "old brick wall" means "wall".
        4. The tag with the most similar spelling, at least 80% alike (`difflib`), for slips: "moutain".
        """
        # of a very long word its end, where the thing is named
        name = normalised(word)[-_MAX_TAG_LENGTH:].lstrip()
        words = name.split(" ")
        for start in range(len(words)):
            for form in _singulars(" ".join(words[start:])):
                if form in self._index:
                    return self._index[form]
        close = _closest(name, tuple(self._index))
        return None if close is None else self._index[close]

    def understand(self, words: Iterable[str]) -> Understood:
        """Which known tags the words mean, and which words mean none."""
        tags: dict[str, None] = {}
        unknown: dict[str, None] = {}
        for word in words:
            number = self.number(word)
            (unknown if number is None else tags)[word if number is None else self.tags[number]] = None
        return Understood(list(tags), list(unknown))


@lru_cache(maxsize=1024)
def _closest(name: str, known: tuple[str, ...]) -> str | None:
    """Kept, as the same words come with every image of a batch, and the search takes milliseconds."""
    return next(iter(get_close_matches(name, known, n=1, cutoff=_LEAST_LIKENESS)), None)


def _singulars(name: str) -> list[str]:
    """The word itself, and what it would be the plural of."""
    forms = [name]
    if name.endswith("ves"):
        forms += [name[:-3] + "f", name[:-3] + "fe"]
    if name.endswith("ies"):
        forms.append(name[:-3] + "y")
    if name.endswith("es"):
        forms.append(name[:-2])
    if name.endswith("s"):
        forms.append(name[:-1])
    return forms


def read_tag_list(path: str | Path) -> tuple[str, ...]:
    """The tags in a file in UTF-8, one a line. Raises ValueError, one line, if it cannot be read or used."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); name a file with one tag a line"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text in UTF-8; name a file with one tag a line") from None
    tags = tuple(line.strip() for line in lines if line.strip())
    if not tags:
        raise ValueError(f"{path}: holds no tags; name a file with one tag a line")
    with prefixed(f"{path}: ", ValueError):
        Vocabulary(tags)
    return tags
