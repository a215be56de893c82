"""Tags of photos, from a JSON file that lists them by file name; and such files as they grow."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from linearsr.guidance.vocabulary import Vocabulary, normalised, read_tag_list
from linearsr.runtime.checkpoints import write_json
from linearsr.runtime.files import prefixed, whole_file
from linearsr.training.catalogue import Catalogue
from linearsr.training.section import ConfigError

_SECONDS_BETWEEN_WRITES = 60
_T = TypeVar("_T")


class PhotoTags:
    """The tags of photos, as `read_tags` gives them; those that `vocabulary` does not know are passed over.

    Photos that are not listed have none.
    """

    def __init__(self, file: Path, vocabulary: Vocabulary) -> None:
        self.vocabulary, self._file = vocabulary, file
        known = {normalised(tag): number for number, tag in enumerate(vocabulary.tags)}
        tags = read_tags(file)
        meant = {tag: known.get(normalised(tag)) for tag in {tag for found in tags.values() for tag in found}}
        self._numbers = {
            name: [number for tag in found if (number := meant[tag]) is not None]
            for name, found in tags.items()
        }

    def numbers(self, photo: str | Path) -> list[int]:
        return self._numbers.get(name_in(self._file, photo), [])

    def bag(self, photo: str | Path) -> Tensor:
        """(V,): 1 for the tags of a photo, 0 for the others."""
        bag = torch.zeros(len(self.vocabulary.tags))
        bag[self.numbers(photo)] = 1
        return bag


def check_tags(key: str, path: Path | None, vocabulary: Vocabulary, catalogue: Catalogue) -> None:
    """Raises ConfigError if no photo of the catalogue has a tag of the vocabulary; `key` is what needs them."""
    if path is None:
        raise ConfigError(f"{key}: needs the tags of the photos: set data.tags to a JSON file")
    if tagged(path, vocabulary.tags, catalogue):
        return
    photos, tags = [Path(catalogue[number].name) for number in range(len(catalogue))], read_tags(path)
    if any(name_in(path, photo) in tags for photo in photos):
        raise ConfigError(
            f"data.tags: {path} has no tag of the vocabulary for any photo: use the vocabulary that "
            "`linearsr tag` wrote beside it"
        )
    raise ConfigError(
        f"data.tags: {path} names none of the photos: write their paths relative to {path.parent}, "
        f"e.g. {name_in(path, photos[0])!r}"
    )


@cache
def tagged(path: Path, vocabulary: tuple[str, ...], catalogue: Catalogue) -> int:
    """How many of the photos have tags of the vocabulary."""
    tags = PhotoTags(path, Vocabulary(vocabulary))
    return sum(bool(tags.numbers(catalogue[number].name)) for number in range(len(catalogue)))


def name_in(file: Path, photo: str | Path) -> str:
    """The name of a photo in a file of tags: its path from the folder of that file, links left as they are."""
    return Path(os.path.relpath(photo, file.parent)).as_posix()


class PhotoFile(Generic[_T]):
    """A JSON file about photos that grows as they are looked at."""

    def __init__(self, path: Path, known: dict[str, _T]) -> None:
        self.path, self.known = path, known
        self._written = time.monotonic()

    def get(self, photo: str | Path) -> _T | None:
        return self.known.get(name_in(self.path, photo))

    def add(self, photo: str | Path, found: _T) -> None:
        """Note what was found; the file is written once a minute."""
        self.known[name_in(self.path, photo)] = found
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        write_json(self.path, self.known)
        self._written = time.monotonic()


class TagFile(PhotoFile[list[str]]):
    """Such a file of tags, and a text file beside it with all tags that it names.

    What an earlier run has written stays, unless it is to be `anew`.
    """

    def __init__(self, path: Path, anew: bool = False) -> None:
        super().__init__(path, {} if anew or not path.exists() else read_tags(path, "-o"))
        self.vocabulary_path = path.with_suffix(".txt")

    def write(self) -> None:
        super().write()
        with whole_file(self.vocabulary_path) as draft:
            draft.write_text("".join(f"{tag}\n" for tag in vocabulary_of(self.known)), encoding="utf-8")

    def __str__(self) -> str:
        tags = len(vocabulary_of(self.known))
        return f"{self.path}: {len(self.known):,} photos; {self.vocabulary_path}: {tags:,} tags"


def vocabulary_of(tags: Mapping[str, list[str]]) -> tuple[str, ...]:
    """All tags of photos, the most frequent first; of several spellings of one tag, the most frequent."""
    spellings: dict[str, str] = {}
    for tag, _ in Counter(tag for found in tags.values() for tag in found).most_common():
        spellings.setdefault(normalised(tag), tag)
    spellings.pop("", None)
    return tuple(spellings.values())


def read_tags(path: Path, key: str = "data.tags") -> dict[str, list[str]]:
    """Tags by photo, named relative to the file's own folder. Raises ConfigError as `read_photo_file`."""
    return read_photo_file(
        path, list[str], key, '{"folder/photo.jpg": ["tag", ...], ...}, as `linearsr tag` writes it'
    )


def read_photo_file(path: Path, kind: type[_T], key: str, shape: str) -> dict[str, _T]:
    """What a JSON file says of photos, by their names. Raises ConfigError, naming `key`, if it has another `shape`."""
    try:
        file: TypeAdapter[dict[str, _T]] = TypeAdapter(dict[str, kind])  # type: ignore[valid-type]
        return file.validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror}): it must hold {shape}") from None
    except ValidationError as error:
        first = error.errors()[0]
        wrong = first["msg"] if first["type"] == "json_invalid" else "".join(map(repr, first["loc"][:1]))
        raise ConfigError(f"{key}: {path}: it must hold {shape} ({wrong or 'no mapping'})") from None


def read_vocabulary(path: Path, key: str) -> Vocabulary:
    """The tags of a text file, one a line, or all of a JSON file such as `data.tags`. Raises ConfigError."""
    if path.suffix == ".json":
        return Vocabulary(vocabulary_of(read_tags(path)))
    with prefixed(f"{key}: ", ConfigError):
        return Vocabulary(read_tag_list(path))
