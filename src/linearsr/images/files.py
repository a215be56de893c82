"""Recognition of image files: by name in folders, by the first bytes of a file."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_COMMON = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_RARE = {".apng", ".heic", ".heif", ".hif", ".jp2", ".jxl", ".mpo", ".pbm", ".pgm", ".pnm", ".ppm", ".tga"}
IMAGE_SUFFIXES = frozenset(_COMMON | _RARE)
"""Suffixes that mark an image when a folder is searched, including types that need an extra to be read. A
file that the user names is read whatever its suffix."""

RESULTS_MARK = ".linearsr-results"
"""The name of a file that marks a folder of results, so that a search for inputs skips the folder."""

_KINDS = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff"),
    b"\xff\x4f\xff\x51": "jpeg2000",
    **dict.fromkeys((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"), "jxl"),
}
_SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tiff"}
_RAW = (b"FUJIFILMCCD-RAW", b"FOVb", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR")
CAMERA_RAW = (
    "is a camera RAW file; convert it to TIFF, PNG or JPEG first, for example with darktable or RawTherapee"
)
_BRANDS = frozenset({
    b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"heif", b"hevc", b"avif", b"avis",
})  # fmt: skip

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
URL_PROBLEM = "is a URL: download it first, then name the file"


def is_url(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is a URL rather than the name of a file."""
    return _URL.match(os.fspath(name)) is not None


def kind_of(begin: bytes) -> str:
    """Return the kind of a file by its first bytes: "png", "jpeg", "tiff", "webp", "boxed" (HEIC and AVIF),
    "jpeg2000", "jxl", "raw" (camera RAW, except that in TIFF: see `full_size_page`), or "" for others."""
    kind = next((kind for start, kind in _KINDS.items() if begin.startswith(start)), "")
    if begin.startswith(_RAW) or begin[4:12] == b"ftypcrx " or (kind == "tiff" and begin[8:10] == b"CR"):
        return "raw"
    if begin[:4] == b"RIFF" and begin[8:12] == b"WEBP":
        return "webp"
    if begin[4:8] == b"ftyp" and begin[8:12] in _BRANDS:
        return "boxed"
    return "jpeg2000" if begin[4:8] == b"jP  " else kind


def suffix_for(begin: bytes) -> str:
    """Return the suffix for a file with these first bytes, or ".png" if its format cannot be written."""
    if begin[4:12] == b"ftypavif":
        return ".avif"
    # BigTIFF becomes PNG, because not every program reads it
    return ".png" if b"+" in begin[2:4] else _SUFFIXES.get(kind_of(begin), ".png")


def is_image_name(path: Path) -> bool:
    """Return whether a file found in a folder counts as an image: it has a known suffix and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def is_marked(folder: str | Path) -> bool:
    """Return whether a folder is marked as the results of an earlier run."""
    return os.path.exists(os.path.join(folder, RESULTS_MARK))


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the image files in `folder` and its subfolders, sorted; hidden folders are skipped."""
    top = Path(folder)
    return sorted(
        path
        for path in top.rglob("*")
        if is_image_name(path)
        and not path.is_dir()
        and not any(part.startswith(".") for part in path.relative_to(top).parts)
    )


def tell_others(folders: Iterable[Path], left_out: Path | None = None) -> str | None:
    """Return one line that counts the files under `folders` that are not images, or None if there are none.

    Hidden subfolders, subfolders of results and `left_out` are not searched.
    """
    kinds = Counter[str]()
    away = left_out and os.path.realpath(left_out)
    for root, inside, names in (entry for folder in folders for entry in os.walk(folder)):
        visible = {name: os.path.join(root, name) for name in inside if not name.startswith(".")}
        inside[:] = [
            name for name, at in visible.items() if os.path.realpath(at) != away and not is_marked(at)
        ]
        for path in map(Path, names):
            if not is_image_name(path) and path.name != RESULTS_MARK:
                kinds["hidden" if path.name.startswith(".") else path.suffix.lower() or "without a type"] += 1
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"skipped, not image file names: {counts}" if kinds else None
