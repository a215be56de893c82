"""Files that get their name only when they are complete, and dataclasses from JSON."""

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
    """Convert errors `caught` in the block to `kind`, with `prefix` before the message."""
    try:
        yield
    except caught as error:
        raise kind(f"{prefix}{error}") from error


@contextmanager
def whole_file(path: Path, tag: str | None = None, overwrite: bool = True) -> Iterator[Path]:
    """Give the block an empty file beside `path`, and rename it to `path` at the end. An error deletes it.

    With a `tag` its name is always the same, so that the next process replaces what a killed one has left.
    """
    # without a tag, leave out the name of the file, which may already have the maximum length
    draft = path.with_name(f".{path.name}.{tag}.part" if tag else f".linearsr-{secrets.token_hex(8)}.part")
    draft.touch(exist_ok=tag is not None)
    try:
        mode = draft.stat().st_mode
        yield draft
        # restore the permissions: safetensors makes files that other users cannot read
        if draft.stat().st_mode != mode:
            draft.chmod(mode)
        put(draft, path, overwrite)
    finally:
        draft.unlink(missing_ok=True)


def put(draft: Path, path: Path, overwrite: bool) -> None:
    """Rename a complete file to `path`. Raises FileExistsError when `path` exists and `overwrite` is off."""
    try:
        # unlike a rename, a link replaces nothing
        (os.replace if overwrite else os.link)(draft, path)
    except OSError:
        if overwrite or path.exists():
            raise
        # a disk without links, such as FAT: an empty file reserves the name for an instant
        path.touch(exist_ok=False)
        try:
            os.replace(draft, path)
        except BaseException:
            path.unlink()
            raise


def from_json(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """Create a dataclass from values of a JSON object, each strictly of the type of its field.

    Raises ValueError with one line: the field and what it must be, or the error of the dataclass itself.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        raise ValueError(": ".join([*map(str, first["loc"][:1]), reason])) from None
