"""The metadata of image files: orientation, EXIF, ICC profile, resolution, XMP, IPTC and PNG text."""

import copy
import math
import struct
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from io import BytesIO
from typing import Any, Literal, TypedDict

import numpy as np
from PIL import Image, ImageCms
from PIL.ExifTags import IFD, Base

from linearsr.images.picture import Notes, warn_of
from linearsr.images.png_colour import hdr_curve
from linearsr.images.texts import RECORDS, packet_for_upright, packet_without_places, records_in

_NO_UNIT = 1
_TIFF_RECORDS, _TIFF_RESOURCES = 33723, 34377
# Tags that describe how a TIFF stores its own pixels; in the EXIF block of another file they would be wrong.
_STORAGE_TAGS = frozenset({
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290,
    291, 292, 293, 297, 301, 317, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338, 339, 340,
    341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559, 700, 33723, 34377, 34675,
})  # fmt: skip

# How to undo each EXIF orientation (EXIF 2.32, tag 274) on an array (H, W, ...).
_UPRIGHT: dict[int, Callable[[Any], Any]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


Keep = Literal["all", "no places", "nothing"]
"""The metadata to keep: all, all except where a photo was taken (GPS), or only colours and resolution."""


class _Verbatim(str):
    """EXIF text that is written byte for byte as it was read.

    Pillow reads it as Latin-1, but would write it as ASCII with question marks.
    """

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        try:
            return super().encode("latin-1")
        except UnicodeEncodeError:
            return super().encode("utf-8", "replace")


class Metadata(TypedDict, total=False):
    """The metadata to write to a file; all but the last two are keyword arguments of Pillow's `save`.

    `chunks`: (kind, data) of the chunks that go into a PNG unchanged.
    """

    icc_profile: bytes
    exif: bytes
    dpi: tuple[float, float]
    xmp: bytes
    iptc: bytes
    chunks: tuple[tuple[bytes, bytes], ...]


def read_notes(
    name: str, im: Image.Image, shape: tuple[int, int, int], *, managed: bool, keep: Keep = "all"
) -> tuple[int, Notes]:
    """Return the EXIF orientation and the notes of an opened image.

    `shape`: (H, W, colour channels) as stored; `managed`: whether its colours have been converted to sRGB.
    Metadata that is broken or does not fit the image is dropped, with a warning.
    """
    try:
        exif = read_exif(im)
        orientation = read_orientation(exif)
    except Exception:
        warn_of(name, "its EXIF data is broken and is dropped")
        exif, orientation = Image.Exif(), 1
    height, width, channels = shape
    size = (height, width) if orientation >= 5 else (width, height)
    if keep == "no places" and IFD.GPSInfo in exif:
        del exif[IFD.GPSInfo]
    try:
        block = exif_for_upright(exif, size) if keep != "nothing" else None
    except Exception:
        warn_of(name, "its EXIF data cannot be copied and is dropped")
        block = None
    colours = () if managed else im.info.get("png_colours", ())
    profile = None if managed else _fitting_profile(name, im, channels)
    if (colours or profile) and (curve := hdr_curve(dict(colours), profile)):
        label = "" if profile else "; only PNG keeps their label"
        warn_of(name, f"has HDR colours ({curve}), which are processed like SDR{label}")
    notes = Notes(icc_profile=profile, exif=block, dpi=read_dpi(im), colour_chunks=colours)
    return orientation, notes if keep == "nothing" else replace(notes, **_read_texts(name, im, size, keep))


def _read_texts(name: str, im: Image.Image, size: tuple[int, int], keep: Keep) -> dict[str, Any]:
    """Return XMP corrected for `size` (width, height), IPTC and PNG text of an opened image."""
    packet = im.info.get("xmp") or im.info.get("XML:com.adobe.xmp")
    if isinstance(packet, str):
        packet = packet.encode("utf-8", "replace")
    xmp = packet_for_upright(packet, size) if isinstance(packet, bytes) else None
    if packet and xmp is None:
        warn_of(name, "its XMP packet is broken and is dropped")
    if xmp and keep == "no places":
        xmp = packet_without_places(xmp)
    records = im.info.get("iptc") or _records_of(im.info, getattr(im, "tag_v2", {}))
    return {"xmp": xmp, "iptc": records, "png_texts": im.info.get("png_texts", ())}


def _records_of(info: Mapping[Any, Any], tiff_tags: Mapping[int, Any]) -> bytes | None:
    """Return the IPTC records of an image from Pillow's `info` or its TIFF tags; None if it has none."""
    resources = info.get("photoshop")
    found: Any = resources.get(RECORDS) if isinstance(resources, dict) else None
    found = found or tiff_tags.get(_TIFF_RECORDS)
    if isinstance(found, (tuple, int)):
        # some programs store them as integers of four bytes
        numbers = (found,) if isinstance(found, int) else found
        found = b"".join(struct.pack("<I", number) for number in numbers if isinstance(number, int))
    if not found and isinstance(packed := tiff_tags.get(_TIFF_RESOURCES), bytes):
        found = records_in(packed)
    return found.rstrip(b"\0") or None if isinstance(found, bytes) else None


def inherit_notes(im: Image.Image, first: Image.Image) -> None:
    """Copy EXIF, XMP and IPTC from the first page of a TIFF to its full-size page where that has none."""
    exif = im.getexif()
    for tag, value in first.getexif().items():
        exif.setdefault(tag, value)
    if packet := first.info.get("xmp"):
        im.info.setdefault("xmp", packet)
    if records := _records_of(first.info, getattr(first, "tag_v2", {})):
        im.info.setdefault("iptc", records)


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (H, W, ...) stored in EXIF `orientation` (1 to 8) so that its first row is the top."""
    return np.ascontiguousarray(_UPRIGHT[orientation](array)) if orientation in _UPRIGHT else array


def read_orientation(exif: Image.Exif) -> int:
    """Return the EXIF orientation; 1 (upright) if it is missing or invalid."""
    orientation = exif.get(Base.Orientation, 1)
    return int(orientation) if orientation in _UPRIGHT else 1


def parse_exif(block: bytes | None) -> Image.Exif:
    """Parse a raw EXIF block; None gives empty EXIF. Raises what Pillow raises for a broken block."""
    exif = Image.Exif()
    if block:
        exif.load(block)
    return exif


def read_exif(im: Image.Image) -> Image.Exif:
    """Return the EXIF data of an image, empty if there is none. Raises what Pillow raises if it is broken."""
    # Pillow ignores a broken block when it opens a file and then reports an empty one, so parse it once more
    block = im.info.get("exif")
    if isinstance(block, bytes):
        parse_exif(block)
    exif = im.getexif()
    # copy it, as changes for the result must not affect the caller's image; an open file cannot be copied
    file = getattr(exif, "fp", None)
    exif = copy.deepcopy(exif, {id(file): file})
    # a block written with the header of BigTIFF could not be read by Pillow
    exif.bigtiff = False
    return exif


def exif_for_upright(exif: Image.Exif, size: tuple[int, int]) -> bytes | None:
    """Return EXIF as a raw block for an upright image of `size` (width, height); None if nothing is left.

    The orientation becomes 1 and the pixel dimensions become `size`; the thumbnail, and tags about the
    storage of the old pixels, are removed. Raises what Pillow raises if the tags cannot be written.
    """
    for tag in _STORAGE_TAGS.intersection(exif):
        del exif[tag]
    if Base.Orientation in exif:
        exif[Base.Orientation] = 1
    # get_ifd would create a directory that is missing
    photo = exif.get_ifd(IFD.Exif) if IFD.Exif in exif else {}
    for tag, length in zip((Base.ExifImageWidth, Base.ExifImageHeight), size, strict=True):
        if tag in photo:
            photo[tag] = length
    inner = [exif.get_ifd(tag) for tag in (IFD.GPSInfo, IFD.Interop) if tag in exif or tag in photo]
    for tags in (exif, photo, *inner):
        keep_text(tags)
    return exif.tobytes() if len(exif) else None


def keep_text(tags: MutableMapping[int, Any]) -> None:
    """Mark the text among `tags`, so that it is written byte for byte as it was read."""
    for tag, value in list(tags.items()):
        if isinstance(value, str):
            tags[tag] = _Verbatim(value)


def to_srgb(im: Image.Image, icc_profile: bytes) -> Image.Image:
    """Convert an image to sRGB through its profile. Raises ImageCms.PyCMSError if the profile is unfit."""
    source = ImageCms.ImageCmsProfile(BytesIO(icc_profile))
    converted = ImageCms.profileToProfile(im, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def read_dpi(im: Image.Image) -> tuple[float, float] | None:
    """Return the resolution in pixels per inch (x, y); None if it is unknown or implausible."""
    tiff = getattr(im, "tag_v2", None)
    if tiff is not None and (Base.XResolution not in tiff or tiff.get(Base.ResolutionUnit) == _NO_UNIT):
        return None  # Pillow would report 1
    try:
        x, y = (float(value) for value in im.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # at most what JPEG can store in 16 bits
    plausible = all(math.isfinite(value) and 1 <= value <= 65535 for value in (x, y))
    return (x, y) if plausible else None


def _fitting_profile(name: str, im: Image.Image, channels: int) -> bytes | None:
    """Return the ICC profile; None if there is none or, with a warning, if it is broken or does not fit."""
    icc_profile = im.info.get("icc_profile")
    if not icc_profile:
        return None
    try:
        if int.from_bytes(icc_profile[:4], "big") > len(icc_profile):
            raise OSError("its end is missing")
        space = str(ImageCms.ImageCmsProfile(BytesIO(icc_profile)).profile.xcolor_space).strip()
    except Exception:
        warn_of(name, "its ICC profile is broken and is dropped")
        return None
    if space == ("RGB" if channels == 3 else "GRAY"):
        return bytes(icc_profile)
    warn_of(name, f"its ICC profile is for {space} and does not fit; it is dropped")
    return None
