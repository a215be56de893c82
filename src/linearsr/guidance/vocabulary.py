"""The tags that a model knows, and the rules by which a user's word means one of them."""

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
    """A user's words, as a vocabulary understands them."""

    tags: list[str]
    """Known tags, each once, in the order of the words."""
    unknown: list[str]
    """Words that mean no known tag."""


def normalised(word: str) -> str:
    """Normalise a word: NFKC, no case; hyphens, underscores and runs of blanks become one blank."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return re.sub(r"[\s_-]+", " ", folded).strip()


def split_tags(text: str) -> list[str]:
    """Split a list as users write it, "brick wall, ivy", into words; empty ones are left out."""
    return [word.strip() for word in re.split(r"[,;\n|]", text) if word.strip()]


class Vocabulary:
    """Known tags, in the order of a model's table. Raises ValueError for an empty or repeated tag."""

    def __init__(self, tags: Iterable[str]) -> None:
        self.tags = tuple(tags)
        self._index = {normalised(tag): i for i, tag in enumerate(self.tags)}
        if "" in self._index:
            raise ValueError("a vocabulary has no empty tags")
        if len(self._index) < len(self.tags):
            twice = next(tag for i, tag in enumerate(self.tags) if self._index[normalised(tag)] != i)
            raise ValueError(f"tag {twice!r} is in the vocabulary twice")

    def number(self, word: str) -> int | None:
        """Return the index of the tag that `word` means, by the first rule that finds one, or None.

        1. The tag itself, `normalised`.
        2. Its plural: "trees", "churches" and "leaves" mean "tree", "church" and "leaf".
        3. Its last words, which name the thing that the words before describe: "old brick wall" means "wall".
        4. The tag with the most similar spelling, at least 80% alike (`difflib`), for typos: "moutain".
        """
        # of a very long word keep the end, which names the thing
        name = normalised(word)[-_MAX_TAG_LENGTH:].lstrip()
        words = name.split(" ")
        for start in range(len(words)):
            for form in _singulars(" ".join(words[start:])):
                if form in self._index:
                    return self._index[form]
        close = _closest(name, tuple(self._index))
        return None if close is None else self._index[close]

    def understand(self, words: Iterable[str]) -> Understood:
        """Return the known tags that the words mean, and the words that mean none."""
        tags: dict[str, None] = {}
        unknown: dict[str, None] = {}
        for word in words:
            number = self.number(word)
            (unknown if number is None else tags)[word if number is None else self.tags[number]] = None
        return Understood(list(tags), list(unknown))


@lru_cache(maxsize=1024)
def _closest(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name most like `name`.

    Cached, because every image of a batch has the same words and the search takes milliseconds.
    """
    return next(iter(get_close_matches(name, known, n=1, cutoff=_LEAST_LIKENESS)), None)


def _singulars(name: str) -> list[str]:
    """Return the word itself, and the words of which it may be the plural."""
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
    """Read a UTF-8 file with one tag a line. Raises ValueError, one line, if it cannot be read or used."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); name a file with one tag a line"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text; name a file with one tag a line") from None
    tags = tuple(line.strip() for line in lines if line.strip())
    if not tags:
        raise ValueError(f"{path}: holds no tags; name a file with one tag a line")
    with prefixed(f"{path}: ", ValueError):
        Vocabulary(tags)
    return tags
