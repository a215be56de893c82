"""Tags of photos, from a JSON file that lists them by file name."""

import json
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from linearsr.guidance.vocabulary import Vocabulary, read_tag_list
from linearsr.training.section import ConfigError


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


@cache
def read_tags(path: Path) -> dict[str, list[str]]:
    """Tags by photo, `{"folder/photo.jpg": ["tag", ...], ...}`, with paths relative to the file's own folder.

    Raises:
        ConfigError: as one line, if the file cannot be read or holds something else.
    """
    try:
        tags = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"data.tags: {path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"data.tags: {path} is no valid JSON ({error})") from None
    shape = 'it must hold {"folder/photo.jpg": ["tag", ...], ...}'
    if not isinstance(tags, dict):
        raise ConfigError(f"data.tags: {path}: {shape}")
    for name, found in tags.items():
        if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
            raise ConfigError(f"data.tags: {path}: {name!r} has no list of tags; {shape}")
    return tags


def read_vocabulary(path: Path, key: str) -> Vocabulary:
    """The tags of a file, as `read_tag_list` reads them. Raises ConfigError, which names `key`, where that fails."""
    try:
        return Vocabulary(read_tag_list(path).tags)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
