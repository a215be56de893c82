"""Messages for people, each on one printable line."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DEBUG_VARIABLE = "LINEARSR_DEBUG"


def debugging() -> bool:
    """Return whether failures should show a traceback (the variable LINEARSR_DEBUG is set)."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def shown(path: str | Path) -> str:
    """Return a path on one printable line; line breaks, control codes and undecodable bytes are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(path))


def shown_words(words: Sequence[str], most: int = 8, longest: int = 40) -> str:
    """Join the first `most` words, each cut at `longest` characters, and say how many more there are."""
    listed = ", ".join(shown(word[:longest]) for word in words[:most])
    return listed + (f" and {len(words) - most} more" if len(words) > most else "")


def one_line(message: object) -> str:
    """Return a message on one line; if it is empty, as that of some exceptions, the name of its class."""
    text = " ".join(str(message).split())
    return shown(text) or type(message).__name__


def failure(error: Exception, path: Path | None = None) -> str:
    """Describe an error on one line, with its class unless it is a ValueError, ImportError or OSError.

    `path` is the file to name for an OSError that names none.
    """
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or path
        return f"{shown(str(place))}: {error.strerror}" if place else error.strerror
    text = one_line(error)
    return (
        text if isinstance(error, (ValueError, ImportError, OSError)) else f"{type(error).__name__}: {text}"
    )


@contextmanager
def heard() -> Iterator[list[warnings.WarningMessage]]:
    """Record every UserWarning of the block, repeated ones too, and ignore other warnings."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        yield notes


def warning_text(note: warnings.WarningMessage) -> str:
    """Return a warning about a picture on one line."""
    if note.filename.endswith("TiffImagePlugin.py"):  # Pillow warns several times, about bytes it expected
        return "its EXIF data or TIFF tags are damaged: what cannot be read of them is left out"
    return one_line(note.message)


def reason(error: Exception, path: Path | None = None) -> str:
    """Return why a picture failed, on one line. `path` is the file to name if the error names none."""
    from linearsr.runtime.devices import is_out_of_memory

    if is_out_of_memory(error):
        return "not enough memory for an image of this size: make it smaller or cut it into parts"
    return failure(error, path)


def by_option(message: str) -> str:
    """Replace the library's name of a limit in a message by the command's option."""
    return message.replace("the limit (max_pixels)", "--max-pixels")
