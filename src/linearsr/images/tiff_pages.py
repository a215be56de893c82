"""Which picture of a TIFF is the one, and what its tags say."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

CAMERA_RAW = "is a camera RAW file; develop it to TIFF, PNG or JPEG first, as with darktable or RawTherapee"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW = (b"FUJIFILMCCD-RAW", b"FOVb", b"IIU\0", b"IIRO", b"IIRS", b"MMOR")
_SUBFILE, _OLD_SUBFILE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _CHILDREN = 254, 255, 256, 257, 262, 330
_SENSOR = frozenset({32803, 34892})
_MOST_PAGES = 100


class ForeignTiff(TiffImageFile):
    """A TIFF whose pixels Pillow does not know: its size, tags and notes."""

    def _setup(self) -> None:
        tags: Any = self.tag_v2
        self._size = (int(tags[_WIDTH]), int(tags[_HEIGHT]))
        self._mode, self.tile = "F", []
        for tag, key in ((34675, "icc_profile"), (700, "xmp")):
            if block := tags.get(tag):
                self.info[key] = block
        if tags.get(296, 2) in {2, 3} and 282 in tags and 283 in tags:
            unit = 2.54 if tags.get(296) == 3 else 1
            self.info["dpi"] = (float(tags[282]) * unit, float(tags[283]) * unit)


def is_tiff(begin: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return begin.startswith(_TIFF)


def is_camera_raw(begin: bytes) -> bool:
    """Whether a file begins as those of some cameras do; others are TIFF, and `full_size_page` tells."""
    return begin.startswith(_RAW) or begin[4:12] == b"ftypcrx " or (is_tiff(begin) and begin[8:10] == b"CR")


def full_size_page(file: BinaryIO) -> int | None:
    """Where the directory of the full-size picture is, if the first is a reduced one; None for the first.

    Raises:
        ValueError: it holds what a camera's sensor saw, not a picture.
    """
    pages = list(_pages(file))
    if any(tags.get(_PHOTOMETRIC) in _SENSOR for _, tags in pages):
        raise ValueError(CAMERA_RAW)
    if not pages or not _is_reduced(pages[0][1]):
        return None
    offset = max(pages, key=lambda page: (not _is_reduced(page[1]), _area(page[1])))[0]
    return None if offset == pages[0][0] else offset


def with_first_page(data: bytes, offset: int) -> bytes:
    """A TIFF file whose first directory is another one."""
    order, at, size = "little" if data[:1] == b"I" else "big", 4, 4
    if data[2:4] in {b"+\0", b"\0+"}:
        at, size = 8, 8
    return data[:at] + offset.to_bytes(size, "big" if order == "big" else "little") + data[at + size :]


def _pages(file: BinaryIO) -> Iterator[tuple[int, Any]]:
    """(offset, tags) of the pages and of what hangs on them."""
    file.seek(0)
    head = file.read(8)
    if head[2:3] == b"+" or head[3:4] == b"+":
        head += file.read(8)
    todo, seen = [ImageFileDirectory_v2(head).next], set[int]()
    while todo and len(seen) < _MOST_PAGES:
        at = todo.pop(0)
        if not at or at in seen:
            continue
        seen.add(at)
        tags: Any = ImageFileDirectory_v2(head)
        file.seek(at)
        try:
            tags.load(file)
        except Exception:  # a broken page is no candidate
            continue
        yield at, tags
        children = tags.get(_CHILDREN, ())
        todo += [*(children if isinstance(children, tuple) else (children,)), tags.next]


def _is_reduced(tags: Any) -> bool:
    """Marked as a smaller copy or a mask."""
    return bool(int(tags.get(_SUBFILE, 0) or 0) & 5) or tags.get(_OLD_SUBFILE) == 2


def _area(tags: Any) -> int:
    return int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0))
