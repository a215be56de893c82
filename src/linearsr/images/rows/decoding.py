"""Decoding of an image file, once, into a file of rows: upright, grey or RGB, with its alpha."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from linearsr.images.files import kind_of
from linearsr.images.metadata import Keep, read_notes
from linearsr.images.opening import check_size, open_image
from linearsr.images.picture import Notes, quantise, warn_of
from linearsr.images.png import all_but_image_data, copy_without_asides, described, scan
from linearsr.images.reading import guarded, read_image, read_size
from linearsr.images.rows.row_file import RowFile
from linearsr.images.rows.vips import as_image, depth_of, save, vips
from linearsr.images.samples import samples_of
from linearsr.images.tiff_reading import full_size_page, is_foreign
from linearsr.runtime.devices import require_memory

_SPACES = {"b-w", "grey16", "srgb", "rgb16", "cmyk"}
# libvips would read the samples of other modes as RGB
_TIFF_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"})
_EXTRA_SAMPLES, _PREMULTIPLIED = 338, (1,)
# other compressions may be decoded to noise by libvips
_COMPRESSION, _COMPRESSIONS = 259, frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
_HELD_BYTES_PER_PIXEL = 32
"""Memory for a picture that is decoded in one piece."""


def decode(
    path: Path, folder: Path, max_pixels: int, keep: Keep = "all", strict: bool = False
) -> tuple[RowFile, Notes]:
    """Decode an image file to a file of rows in `folder`.

    Returns:
        The upright samples, with alpha, if any, in the last of 2 or 4 channels; the metadata of the file.

    Memory grows only with the width for PNG (not interlaced), JPEG (not progressive) and TIFF, if they have 8
    or 16 bits and no damage. All else that `read_image` reads is decoded in one piece.

    Raises:
        ImageError: one line, as for `read_image`.
        ValueError: the file must be decoded in one piece, which does not fit in memory.
        ImportError: the extra `large` is not installed.
    """
    vips()
    name = os.fspath(path)
    in_strips = guarded(name, partial(_decode_in_strips, path, folder, max_pixels, keep))
    if in_strips is not None:
        return in_strips
    # not possible in strips: decode it in one piece
    height, width = read_size(path, name, max_pixels)
    require_memory(
        height * width * _HELD_BYTES_PER_PIXEL, torch.device("cpu"), f"{name}: an image decoded in one piece"
    )
    picture = read_image(path, max_pixels, keep=keep, strict=strict)
    samples = picture.quantised()
    height, width, channels = samples.shape
    rows = RowFile(folder / "input.rows", height, width, channels, samples.dtype)
    stored = replace(rows, path=folder / "stored.rows")
    stored.clear()
    stored.append(samples)
    os.replace(stored.path, rows.path)
    return rows, picture.notes


def _decode_in_strips(path: Path, folder: Path, max_pixels: int, keep: Keep) -> tuple[RowFile, Notes] | None:
    """Decode by strips; None if that fails, because decoding in one piece shows what is there or wrong."""
    name = os.fspath(path)
    with open(path, "rb") as file:
        header = _header(name, file)
        if header is None:
            return None
        check_size(name, header.size, max_pixels)
        image = _opened(path, folder, header)
        if image is None:
            return None
        managed = image.interpretation == "cmyk"
        channels = 3 if managed else image.bands
        rows = RowFile(folder / "input.rows", image.height, image.width, channels, np.dtype(depth_of(image)))
        stored = replace(rows, path=folder / "stored.rows", channels=image.bands)
        try:
            save(image, "rawsave", stored.path)
        except OSError:
            return None
        shape = rows.height, rows.width, channels - (channels in {2, 4})
        orientation, notes = read_notes(name, header, shape, managed=managed, keep=keep)
        profile = header.info.get("icc_profile")
    if orientation >= 5:
        rows = replace(rows, height=rows.width, width=rows.height)
    if managed:
        stored = _to_srgb(stored, folder / "srgb.rows", profile)
    if orientation != 1:
        stored = _turned(stored, replace(rows, path=folder / "upright.rows"), orientation)
    os.replace(stored.path, rows.path)
    return rows, notes


def _header(name: str, file: BinaryIO) -> Image.Image | None:
    """Return the image opened by Pillow, for its metadata; None if its pixels cannot be read in strips."""
    begin = file.read(16)
    if kind_of(begin) == "png":
        found = scan(file)
        if found.damaged or found.is_cut:
            return None
        header = open_image(name, all_but_image_data(file, found))
        header.info.update(described(found))
        # without this, Pillow would decode all pixels to see whether EXIF follows them
        header.info.setdefault("exif", b"")
        return header
    if kind_of(begin) == "jpeg":
        return open_image(name, file)
    if kind_of(begin) != "tiff" or full_size_page(name, file) is not None:
        return None
    header = open_image(name, file)
    tags: Any = getattr(header, "tag_v2", {})
    if tags.get(_COMPRESSION, 1) not in _COMPRESSIONS:
        return None
    is_plain = (
        header.mode in _TIFF_MODES and not is_foreign(header) and tags.get(_EXTRA_SAMPLES) != _PREMULTIPLIED
    )
    return header if is_plain else None


def _opened(path: Path, folder: Path, header: Image.Image) -> Any:
    """Open the file with libvips, to be read once from top to bottom; None if its pixels would differ."""
    pixels = path
    if header.format == "PNG":
        with open(path, "rb") as file:
            found = scan(file)
            if found.aside:
                # leave out metadata, which could stop the decoder
                pixels = folder / "pixels.png"
                with open(pixels, "wb") as target:
                    copy_without_asides(file, found, target)
    try:
        image = vips().Image.new_from_file(os.fspath(pixels), access="sequential", fail_on="error")
    except vips().Error:
        return None
    bands = image.bands if header.mode == "P" else len(header.getbands())
    deep_cmyk = image.interpretation == "cmyk" and image.format != "uchar"
    is_known = depth_of(image) is not None and image.interpretation in _SPACES and not deep_cmyk
    if not is_known or image.bands not in {bands, bands + ("transparency" in header.info)} or image.bands > 4:
        return None
    if header.format != "JPEG" and getattr(header, "is_animated", False):
        warn_of(path, "has several frames or pages; only the first is used")
    return image


def _to_srgb(stored: RowFile, path: Path, icc_profile: bytes | None) -> RowFile:
    """Convert CMYK rows to sRGB with Pillow, as for pictures that are read whole."""
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
