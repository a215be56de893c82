"""Files that stand under their name only when they are complete, and dataclasses from JSON."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


@contextmanager
def prefixed(
    prefix: str, kind: type[ValueError], caught: type[Exception] | tuple[type[Exception], ...] = ValueError
) -> Iterator[None]:
    """Raise what is `caught` in the block anew, as one of `kind`, with `prefix` before its message."""
    try:
        yield
    except caught as error:
        raise kind(f"{prefix}{error}") from error


@contextmanager
def whole_file(path: Path, tag: str | None = None, overwrite: bool = True) -> Iterator[Path]:
    """An empty file beside `path` to write to, renamed to `path` at the end. After an error nothing is left of it.

    With a `tag` its name is always the same, so that what a killed process leaves is replaced by the next one.
    """
    # without the file's own name, which may be as long as names can be
    draft = path.with_name(f".{path.name}.{tag}.part" if tag else f".linearsr-{secrets.token_hex(8)}.part")
    draft.touch(exist_ok=tag is not None)
    try:
        mode = draft.stat().st_mode
        yield draft
        # safetensors makes files that nobody else can read
        if draft.stat().st_mode != mode:
            draft.chmod(mode)
        put(draft, path, overwrite)
    finally:
        draft.unlink(missing_ok=True)


def put(draft: Path, path: Path, overwrite: bool) -> None:
    """Give a whole file its name. Raises FileExistsError if a file has it that may not be replaced."""
    try:
        # unlike a rename, a link replaces nothing
        (os.replace if overwrite else os.link)(draft, path)
    except OSError:
        if overwrite or path.exists():
            raise
        # a disk without links, such as FAT: for an instant, an empty file has the name
        path.touch(exist_ok=False)
        os.replace(draft, path)


def from_json(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """A dataclass of fields that JSON can hold, each value of the type of its field.

    Raises ValueError, one line that names the field and what it must be, or what the dataclass itself complains of.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        raise ValueError(": ".join([*map(str, first["loc"][:1]), reason])) from None
