"""Folders of images and results of a bulk job: local, or remote at a URL that `fsspec` supports."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import has_magic
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import BinaryIO, cast

from linearsr.runtime.files import whole_file


class BulkError(ValueError):
    """A bulk job cannot be done at all; the message is one line that says why."""


class Store:
    """A local or remote folder: `photos`, `s3://bucket/photos`, `gs://bucket/photos`. It can be pickled.

    Names of files are relative to it, with forward slashes. Raises BulkError: the kind of URL is unknown, or
    the package for it is not installed.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.url = os.fspath(url).rstrip("/") or "/"
        try:
            self.fs, root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise BulkError(f"{self.url}: {error}") from error
        self.root = str(root).rstrip("/")
        self.local = isinstance(self.fs, LocalFileSystem)

    def names(self) -> list[str]:
        """Return the names of all files in it and its subfolders, sorted; [] if the folder does not exist."""
        self.fs.invalidate_cache()
        start = len(self.root) + 1
        return sorted(path[start:] for path in self.fs.find(self.root))

    def exists(self, name: str) -> bool:
        """Return whether a file exists now, without a cache."""
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._path(name)))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or its bytes from `start` to before `end`. Raises OSError: it cannot be read."""
        return bytes(self.fs.cat_file(self._path(name), start=start, end=end))

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading with random access. Raises OSError: it cannot be opened."""
        return cast(BinaryIO, self.fs.open(self._path(name), "rb"))

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file as a whole, by a rename or one upload. Raises OSError: this fails."""
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file to write to. It gets its name when the block ends, and never if the block fails.

        Raises OSError: it cannot be written.
        """
        if not self.local:
            with NamedTemporaryFile() as file:
                yield cast(BinaryIO, file)
                file.flush()
                self.fs.put_file(file.name, self._path(name))
            return
        path = Path(self._path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, "bulk") as draft, draft.open("wb") as file:
            yield file

    def place_in(self, other: "Store") -> str | None:
        """Return the path of this folder inside another: "" if they are the same, None if it is elsewhere."""
        if self.fs != other.fs:
            return None
        if self.root == other.root:
            return ""
        return self.root[len(other.root) + 1 :] if self.root.startswith(f"{other.root}/") else None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"


def locate(source: str) -> tuple[Store, list[str]]:
    """Return the store and file names of a folder, file or pattern. Raises BulkError: there is none."""
    whole = Store(source)
    if has_magic(whole.root) and not whole.fs.exists(whole.root):
        paths = sorted(path for path in whole.fs.glob(whole.root) if whole.fs.isfile(path))
        if not paths:
            raise BulkError(f"{source}: no file matches this pattern")
        fixed = re.split(r"[*?[]", whole.root)[0].rpartition("/")[0]
        return Store(whole.fs.unstrip_protocol(fixed)), [path[len(fixed) + 1 :] for path in paths]
    if whole.fs.isfile(whole.root):
        folder, _, name = whole.root.rpartition("/")
        return Store(whole.fs.unstrip_protocol(folder)), [name]
    if not whole.fs.isdir(whole.root):
        raise BulkError(f"{source}: no such folder or file")
    return whole, whole.names()
