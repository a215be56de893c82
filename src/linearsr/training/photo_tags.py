"""Tags of photos: JSON files that list them by file name, and how these are written as photos are tagged."""

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
    """The tags of photos, as `read_tags` reads them; tags that are not in `vocabulary` are ignored.

    Photos that are not listed have no tags.
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
        """Return a vector (V,): 1 for the tags of a photo, 0 for the others."""
        bag = torch.zeros(len(self.vocabulary.tags))
        bag[self.numbers(photo)] = 1
        return bag


def check_tags(key: str, path: Path | None, vocabulary: Vocabulary, catalogue: Catalogue) -> None:
    """Raise ConfigError unless some photo of the catalogue has a known tag; `key` is what needs the tags."""
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
    """Return how many photos have tags of the vocabulary."""
    tags = PhotoTags(path, Vocabulary(vocabulary))
    return sum(bool(tags.numbers(catalogue[number].name)) for number in range(len(catalogue)))


def name_in(file: Path, photo: str | Path) -> str:
    """Return a photo's name in a file of tags: its path relative to the file's folder, links not resolved."""
    return Path(os.path.relpath(photo, file.parent)).as_posix()


class PhotoFile(Generic[_T]):
    """A JSON file with an entry per photo, which grows as photos are processed."""

    def __init__(self, path: Path, known: dict[str, _T]) -> None:
        self.path, self.known = path, known
        self._written = time.monotonic()

    def get(self, photo: str | Path) -> _T | None:
        return self.known.get(name_in(self.path, photo))

    def add(self, photo: str | Path, found: _T) -> None:
        """Add the entry of a photo; the file is written at most once a minute."""
        self.known[name_in(self.path, photo)] = found
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        write_json(self.path, self.known)
        self._written = time.monotonic()


class TagFile(PhotoFile[list[str]]):
    """A `PhotoFile` of tags, with a text file beside it that lists all of these tags.

    Entries of an earlier run are kept, unless `anew` is True.
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
    """Return all tags of photos, most frequent first, each in its most frequent spelling."""
    spellings: dict[str, str] = {}
    for tag, _ in Counter(tag for found in tags.values() for tag in found).most_common():
        spellings.setdefault(normalised(tag), tag)
    spellings.pop("", None)
    return tuple(spellings.values())


def read_tags(path: Path, key: str = "data.tags") -> dict[str, list[str]]:
    """Read tags by photo, named relative to the file's own folder. Raises as `read_photo_file`."""
    return read_photo_file(
        path, list[str], key, '{"folder/photo.jpg": ["tag", ...], ...}, as `linearsr tag` writes it'
    )


def read_photo_file(path: Path, kind: type[_T], key: str, shape: str) -> dict[str, _T]:
    """Read a JSON file that maps names of photos to values of `kind`.

    Raises ConfigError: when it cannot be read or does not have the described `shape`; names `key`.
    """
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
    """Read the tags of a text file, one per line, or of a JSON file like `data.tags`. Raises ConfigError."""
    if path.suffix == ".json":
        return Vocabulary(vocabulary_of(read_tags(path)))
    with prefixed(f"{key}: ", ConfigError):
        return Vocabulary(read_tag_list(path))
