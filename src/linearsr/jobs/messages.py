"""Text for people: one printable line for each thing."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DEBUG_VARIABLE = "LINEARSR_DEBUG"


def debugging() -> bool:
    """Whether failures should show where they come from."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def shown(path: str | Path) -> str:
    """A path as one printable line: line breaks, control characters and bytes that are no text are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(path))


def shown_words(words: Sequence[str], most: int = 8, longest: int = 40) -> str:
    """A list of the first few words, and how many more there are."""
    listed = ", ".join(shown(word[:longest]) for word in words[:most])
    return listed + (f" and {len(words) - most} more" if len(words) > most else "")


def one_line(message: object) -> str:
    """The message (or its exception's) on one line."""
    text = " ".join(str(message).split())
    return shown(text) or type(message).__name__


def failure(error: Exception, path: Path | None = None) -> str:
    """What went wrong as one line, with the error's class if it is not ours; `path` is its file if it names none."""
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or path
        return f"{shown(str(place))}: {error.strerror}" if place else error.strerror
    text = one_line(error)
    return (
        text if isinstance(error, (ValueError, ImportError, OSError)) else f"{type(error).__name__}: {text}"
    )


@contextmanager
def heard() -> Iterator[list[warnings.WarningMessage]]:
    """What the block warns its user of, each time it does."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        yield notes


def warning_text(note: warnings.WarningMessage) -> str:
    """A warning about a picture as one line."""
    if note.filename.endswith("TiffImagePlugin.py"):  # Pillow speaks of bytes that it expected, several times
        return "its EXIF data or TIFF tags are damaged: what cannot be read of them is left out"
    return one_line(note.message)


def reason(error: Exception, path: Path | None = None) -> str:
    """Why a picture failed, as one line; `path` is the file where the error names none."""
    from linearsr.runtime.devices import is_out_of_memory

    if is_out_of_memory(error):
        return "not enough memory for an image of this size: make it smaller or cut it into parts"
    return failure(error, path)


def by_option(message: str) -> str:
    """A message of the library with the name that a limit has as an option."""
    return message.replace("the limit (max_pixels)", "--max-pixels")
