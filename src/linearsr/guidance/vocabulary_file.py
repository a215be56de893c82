"""A vocabulary as a text file: one tag a line, and behind a tab its threshold where it has one of its own."""

from pathlib import Path
from typing import NamedTuple

from linearsr.guidance.vocabulary import Vocabulary


class TagList(NamedTuple):
    """The tags of a file, and the least score of each, None where the file names none."""

    tags: tuple[str, ...]
    thresholds: tuple[float | None, ...]


def read_tag_list(path: str | Path) -> TagList:
    """The tags in a file in UTF-8; empty lines are passed over.

    Raises:
        ValueError: as one line, if it cannot be read, holds no tags or one of them twice, or a threshold is none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); name a file with one tag a line"
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text in UTF-8; name a file with one tag a line") from None
    entries = [_entry(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise ValueError(f"{path}: holds no tags; name a file with one tag a line")
    tags, thresholds = zip(*entries, strict=True)
    try:
        Vocabulary(tags)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return TagList(tags, thresholds)


def _entry(line: str, place: str) -> tuple[str, float | None]:
    tag, _, behind = line.partition("\t")
    if not behind.strip():
        return tag.strip(), None
    try:
        threshold = float(behind)
    except ValueError:
        threshold = -1.0
    if not 0 <= threshold <= 1:
        raise ValueError(f"{place}: {behind.strip()!r} is no threshold from 0 to 1")
    return tag.strip(), threshold
