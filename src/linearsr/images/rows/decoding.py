"""A PNG, TIFF or JPEG file, decoded once into a file of rows: upright, grey or RGB, with its alpha."""

import os
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from linearsr.images.metadata import Keep, Notes, read_notes
from linearsr.images.picture import ImageError, quantise
from linearsr.images.png_file import all_but_image_data, copy_without_asides, described, is_png, scan
from linearsr.images.reading import check_size, complete_png, guarded, rows_missing, tell_damage, tell_repair
from linearsr.images.rows.row_file import RowFile
from linearsr.images.rows.vips import as_image, depth_of, save, vips
from linearsr.images.samples import samples_of
from linearsr.images.tiff_pages import ForeignTiff, full_size_page, is_misread, is_tiff, kind_of

_FORMATS = ("PNG", "TIFF", "JPEG")
_SPACES = {"b-w", "grey16", "srgb", "rgb16", "cmyk"}
# libvips takes their samples for RGB
_FOREIGN_MODES = {"YCbCr", "LAB", "HSV"}
# what libvips says of a JPEG that is cut, and how it fills that
_CUT_JPEG, _JPEG_BLANK = "premature end", 128
_EXTRA_SAMPLES, _PREMULTIPLIED = 338, (1,)


@dataclass(frozen=True)
class Decoded:
    """Upright samples with alpha, if any, in the last of 2 or 4 channels; what the file says about them."""

    rows: RowFile
    notes: Notes


def decode(path: Path, folder: Path, max_pixels: int, keep: Keep = "all", strict: bool = False) -> Decoded:
    """Decode an image file into `folder`, or take what was decoded there before.

    Memory grows with the width alone, but for interlaced PNG and progressive JPEG, whose decoders hold all pixels.

    Raises:
        ImageError: one line, as for `read_image`; or the file is none of PNG, TIFF and JPEG; or it is neither grey nor
            RGB of 8 or 16 bits, nor CMYK of 8 bits.
        ImportError: the extra `large` is not installed.
    """
    vips()
    return guarded(os.fspath(path), partial(_decode, path, folder, max_pixels, keep, strict))


def _decode(path: Path, folder: Path, max_pixels: int, keep: Keep, strict: bool) -> Decoded:
    with _header(path) as header:
        check_size(os.fspath(path), header.size, max_pixels)
        pixels = _pixels(path, folder, header, strict)
        image = _open(path, pixels, header)
        managed = image.interpretation == "cmyk"
        channels = 3 if managed else image.bands
        shape = image.height, image.width, channels - (channels in {2, 4})
        notes = read_notes(os.fspath(path), header, shape, managed=managed, keep=keep)
        profile = header.info.get("icc_profile")
    width, height = image.width, image.height
    if notes.orientation >= 5:
        width, height = height, width
    rows = RowFile(folder / "input.rows", height, width, channels, np.dtype(depth_of(image)))
    if not rows.is_whole:
        stored = RowFile(folder / "stored.rows", image.height, image.width, image.bands, rows.dtype)
        try:
            save(image, "rawsave", stored.path)
        except OSError as error:
            if _CUT_JPEG not in str(error):
                raise
            save(_opened(pixels, "none"), "rawsave", stored.path)
            tell_repair(
                os.fspath(path), rows_missing(os.fspath(path), _rows_there(stored), stored.height), strict
            )
        if managed:
            stored = _to_srgb(stored, folder / "srgb.rows", profile)
        if notes.orientation != 1:
            stored = _turned(stored, replace(rows, path=folder / "upright.rows"), notes.orientation)
        os.replace(stored.path, rows.path)
    return Decoded(rows, notes)


def stored_size(path: Path) -> tuple[int, int]:
    """(height, width) as stored. Raises ImageError if the file is no PNG, TIFF or JPEG."""

    def look() -> tuple[int, int]:
        with _header(path) as header:
            return header.height, header.width

    return guarded(os.fspath(path), look)


def _header(path: Path) -> Image.Image:
    """The file opened by Pillow, for all that it says before its pixels.

    Not by `Image.open`, which has a limit of pixels of its own.
    """
    Image.preinit()
    with open(path, "rb") as file:
        begin = file.read(16)
    readers = (
        opens for opens, accepts in map(Image.OPEN.__getitem__, _FORMATS) if accepts and accepts(begin)
    )
    if (opens := next(readers, None)) is None:
        raise ImageError(path, "is no PNG, TIFF or JPEG, which alone are read in strips; convert it to one")
    if is_png(begin):
        with open(path, "rb") as file:
            found = scan(file)
            header = opens(all_but_image_data(file, found), os.fspath(path))
        header.info.update(described(found))
        # Pillow would decode all pixels to see whether EXIF follows them
        header.info.setdefault("exif", b"")
        return header
    if is_tiff(begin):
        return _tiff_header(path)
    # a path does as well as a file, which the image would then not close
    return opens(cast(IO[bytes], os.fspath(path)), os.fspath(path))


def _tiff_header(path: Path) -> Image.Image:
    with open(path, "rb") as file:
        try:
            page = full_size_page(file)
        except ValueError as error:
            raise ImageError(path, str(error)) from error
    if page:
        raise ImageError(
            path, "begins with a reduced page, which strips cannot skip; save its full-size page alone"
        )
    try:
        return Image.OPEN["TIFF"][0](cast(IO[bytes], os.fspath(path)), os.fspath(path))
    except SyntaxError:
        return ForeignTiff(os.fspath(path))


def _pixels(path: Path, folder: Path, header: Image.Image, strict: bool) -> Path:
    """The file to decode: of a PNG that is cut, or has chunks that could stop a decoder, a good copy in `folder`."""
    if header.format != "PNG":
        return path
    with open(path, "rb") as file:
        found = scan(file)
        tell_damage(os.fspath(path), found, strict)
        if not (found.damaged or found.aside or found.is_cut):
            return path
        copy = folder / "pixels.png"
        with open(copy, "wb") as target:
            if found.is_cut:
                complete_png(os.fspath(path), file, found, target, strict)
            else:
                copy_without_asides(file, found, target)
    return copy


def _rows_there(stored: RowFile) -> int:
    """Rows of a cut JPEG up to the last that is not blank."""
    there = 0
    for top, bottom in stored.strips():
        filled = np.flatnonzero((stored.read(top, bottom) != _JPEG_BLANK).any(axis=(1, 2)))
        there = top + int(filled[-1]) + 1 if len(filled) else there
    return there


def _opened(path: Path, fail_on: str) -> Any:
    return vips().Image.new_from_file(os.fspath(path), access="sequential", fail_on=fail_on)


def _open(path: Path, pixels: Path, header: Image.Image) -> Any:
    """The file opened by libvips, to be read once from top to bottom."""
    if header.format in {"PNG", "TIFF"} and getattr(header, "is_animated", False):
        warnings.warn(f"{path}: has several frames or pages; only the first is used", stacklevel=5)
    if getattr(header, "tag_v2", {}).get(_EXTRA_SAMPLES) == _PREMULTIPLIED:
        raise ImageError(path, "has colours multiplied by their alpha; save it with straight alpha")
    kind = f" ({kind_of(header)})" if isinstance(header, TiffImageFile) else ""
    problem = (
        f"has another kind of pixels{kind} than can be read in strips; convert it to RGB of 8 or 16 bits"
    )
    foreign = ImageError(path, problem)
    if header.mode in _FOREIGN_MODES or (isinstance(header, TiffImageFile) and is_misread(header)):
        raise foreign
    image = _opened(pixels, "error")
    deep_cmyk = image.interpretation == "cmyk" and image.format != "uchar"
    if depth_of(image) is None or image.interpretation not in _SPACES or image.bands > 4 or deep_cmyk:
        raise foreign
    return image


def _to_srgb(stored: RowFile, path: Path, icc_profile: bytes | None) -> RowFile:
    """CMYK in sRGB, by Pillow, as for pictures that are read whole."""
    srgb = RowFile(path, stored.height, stored.width, 3, stored.dtype)
    srgb.clear()
    for top, bottom in stored.strips():
        strip = Image.fromarray(stored.read(top, bottom), "CMYK")
        strip.info["icc_profile"] = icc_profile
        srgb.append(quantise(samples_of(strip).colour, None, bits=8))
    stored.path.unlink()
    return srgb


def _turned(stored: RowFile, target: RowFile, orientation: int) -> RowFile:
    image = as_image(stored).copy()
    image.set_type(vips().GValue.gint_type, "orientation", orientation)
    save(image.autorot(), "rawsave", target.path)
    stored.path.unlink()
    return target
