"""Tags of photos, from a JSON file that lists them by file name; and such files as they grow."""

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from linearsr.guidance.vocabulary import Vocabulary, normalised, read_tag_list
from linearsr.runtime.checkpoints import write_json
from linearsr.runtime.files import prefixed, whole_file
from linearsr.training.section import ConfigError

_SECONDS_BETWEEN_WRITES = 60
_T = TypeVar("_T")


class PhotoTags:
    """The tags of photos, as `read_tags` gives them; those that `vocabulary` does not know are passed over.

    Photos that are not listed have none.
    """

    def __init__(self, file: Path, vocabulary: Vocabulary) -> None:
        self.vocabulary, self._file = vocabulary, file
        numbers = {tag: number for number, tag in enumerate(vocabulary.tags)}
        tags = read_tags(file).items()
        self._numbers = {name: [numbers[tag] for tag in found if tag in numbers] for name, found in tags}

    def bag(self, photo: str | Path) -> Tensor:
        """1 for the tags of a photo and 0 for the others, (V,)."""
        bag = torch.zeros(len(self.vocabulary.tags))
        bag[self._numbers.get(name_in(self._file, photo), [])] = 1
        return bag


def name_in(file: Path, photo: str | Path) -> str:
    """How a file of tags names a photo: by its path from the folder of that file, links left as they are."""
    return Path(os.path.relpath(photo, file.parent)).as_posix()


class PhotoFile(Generic[_T]):
    """A JSON file of what is `known` of photos, which grows as they are looked at."""

    def __init__(self, path: Path, known: dict[str, _T]) -> None:
        self.path, self.known = path, known
        self._written = time.monotonic()

    def get(self, photo: str | Path) -> _T | None:
        """What is known of a photo."""
        return self.known.get(name_in(self.path, photo))

    def add(self, photo: str | Path, found: _T) -> None:
        """Note what was found; once a minute all is written."""
        self.known[name_in(self.path, photo)] = found
        if time.monotonic() - self._written > _SECONDS_BETWEEN_WRITES:
            self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, self.known)
        self._written = time.monotonic()


class TagFile(PhotoFile[list[str]]):
    """Such a file of tags, and a text file beside it with all tags that it names.

    What an earlier run has written stays, unless it is to be `anew`.

    Raises:
        ConfigError: as `read_tags`.
    """

    def __init__(self, path: Path, anew: bool = False) -> None:
        super().__init__(path, {} if anew or not path.exists() else read_tags(path, "-o"))
        self.vocabulary_path = path.with_suffix(".txt")

    def write(self) -> None:
        """Write both files."""
        super().write()
        with whole_file(self.vocabulary_path) as draft:
            draft.write_text("".join(f"{tag}\n" for tag in vocabulary_of(self.known)), encoding="utf-8")

    def __str__(self) -> str:
        """What both files hold, as one line."""
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
    """Tags by photo, `{"folder/photo.jpg": ["tag", ...], ...}`, with paths relative to the file's own folder.

    Raises:
        ConfigError: as one line that names `key`, if the file cannot be read or holds something else.
    """
    try:
        tags = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {path} is no valid JSON ({error})") from None
    shape = 'it must hold {"folder/photo.jpg": ["tag", ...], ...}'
    if not isinstance(tags, dict):
        raise ConfigError(f"{key}: {path}: {shape}")
    for name, found in tags.items():
        if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
            raise ConfigError(f"{key}: {path}: {name!r} has no list of tags; {shape}")
    return tags


def read_vocabulary(path: Path, key: str) -> Vocabulary:
    """The tags of a file, as `read_tag_list` reads them, or of a JSON file as `read_tags` does.

    Raises:
        ConfigError: as one line that names `key`, where that fails.
    """
    if path.suffix == ".json":
        return Vocabulary(vocabulary_of(read_tags(path, key)))
    with prefixed(f"{key}: ", ConfigError):
        return Vocabulary(read_tag_list(path).tags)
