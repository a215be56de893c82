"""Safe reading of image files of any kind: the result is one still, upright picture, or one ImageError."""

import errno
import os
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from linearsr.images.files import URL_PROBLEM, is_url, kind_of
from linearsr.images.metadata import Keep, read_exif, read_notes, read_orientation, upright
from linearsr.images.opening import check_size, open_image, size_of
from linearsr.images.picture import ImageError, Picture, quantise, warn_of
from linearsr.images.png import described, scan, without_asides
from linearsr.images.samples import ForeignPixels, Samples, deep_colour, deep_ppm, samples_of

Result = TypeVar("Result")

DEFAULT_MAX_PIXELS = 64_000_000
# What Pillow counts as frames are previews that cameras append (MPO) or layers (PSD): there is one picture.
_STILL_FORMATS = frozenset({"MPO", "PSD"})
# a count that Pillow adds to its messages, which means nothing to the user
_ASIDE = re.compile(r" \(\d+ bytes not processed\)")
_MODERN_FORMATS = frozenset({"AVIF", "HEIF", "JXL"})
_PHOTO_FORMATS = frozenset({"JPEG", "MPO", "WEBP"})


def read_image(
    source: str | Path | bytes | BinaryIO,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    *,
    keep: Keep = "all",
    strict: bool = False,
) -> Picture:
    """Read a still image from a path, the bytes of a file or a binary file object.

    The picture is upright (EXIF orientation applied). Grey stays one channel; 16-bit grey and colour in PNG
    and TIFF stay 16-bit; CMYK becomes sRGB (through its ICC profile if it has one); palettes become RGB;
    every kind of transparency becomes alpha. Only the first frame of an animation is read, with a warning. A
    broken EXIF block or ICC profile is dropped, with a warning. The format is recognised by content, not by
    extension.

    A PNG that is damaged outside its pixel data is read, and a truncated file is read as far as it goes, with
    a warning that says what is missing; with `strict` this is an error. `keep` selects the metadata to keep.

    Raises ImageError, one line with the name and the remedy, if the source is missing, unreadable, empty, not
    an image, corrupt, or truncated before its pixels; if it has more than `max_pixels` pixels (checked in the
    header, before anything is decompressed); or if one side is more than 1000 times the other.
    """
    name, data = _load(source)
    return guarded(name, lambda: _decode(name, data, max_pixels, keep, strict))


def read_8_bit(
    source: str | Path | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS, strict: bool = True
) -> NDArray[np.uint8]:
    """Read the colour of an image as uint8 (H, W, 3 or 1); an RGB JPEG or WebP is not converted to floats.

    Raises ImageError as `read_image` does.
    """
    name, data = _load(source)

    def decode() -> NDArray[np.uint8]:
        try:
            photo = _decode_photo(name, data, max_pixels)
        except OSError:
            if strict:
                raise
            photo = None
        if photo is not None:
            return photo
        colour = _decode(name, data, max_pixels, strict=strict).colour
        return quantise(colour, None, bits=8).astype(np.uint8, copy=False)

    return guarded(name, decode)


def read_size(
    source: str | Path | BinaryIO, name: str, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[int, int]:
    """Return (height, width) as stored, from the header alone: fast, but blind to damage after the header.

    Raises ImageError, with `name` for the image, for every fault of `read_image` that shows in the header.
    """

    def look() -> tuple[int, int]:
        width, height = size_of(name, source)
        check_size(name, (width, height), max_pixels)
        return height, width

    return guarded(name, look)


def picture_from_pil(image: Image.Image) -> Picture:
    """Convert a Pillow image of any mode, with the rules and errors of `read_image` but no pixel limit."""

    def take() -> Picture:
        image.load()
        return _assemble(name, image, samples_of(image))

    name = str(getattr(image, "filename", "") or "<PIL image>")
    return guarded(name, take)


def guarded(name: str, action: Callable[[], Result]) -> Result:
    """Return the result of `action`; raise what a decoder raises in it as an ImageError about `name`."""
    try:
        return action()
    except ImageError:
        raise
    except ForeignPixels as error:
        raise ImageError(name, str(error)) from error
    except MemoryError as error:
        raise ImageError(name, "does not fit in memory; make it smaller first") from error
    # Pillow's decoders raise nearly every exception there is on hostile input.
    except Exception as error:
        reason = _ASIDE.sub("", str(error)) or type(error).__name__
        raise ImageError(name, f"is broken or truncated ({reason}); get a new copy") from error


def _load(source: str | Path | bytes | BinaryIO) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name, data = "<bytes>", source
    elif isinstance(source, (str, Path)):
        name, data = str(source), _load_path(source)
    else:
        name = str(getattr(source, "name", "<stream>"))
        try:
            if getattr(source, "seekable", bool)():
                source.seek(0)  # as Pillow does, because the stream may just have been written
            data = source.read()
        except (OSError, ValueError) as error:
            raise ImageError(name, f"cannot be read ({error}); open it for reading in binary mode") from error
        if isinstance(data, str):
            raise ImageError(name, "is opened as text; open it for reading in binary mode")
    return name, data


def _load_path(path: str | Path) -> bytes:
    try:
        if os.path.isdir(path):
            raise ImageError(path, "is a folder, not an image; name the images in it")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(path, "is a device or pipe, not a file; copy its content into a file")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(path, URL_PROBLEM if is_url(path) else "does not exist; check the name") from error
    except PermissionError as error:
        raise ImageError(path, "cannot be read: no permission; change its permissions or owner") from error
    except OSError as error:
        reason = "the name is too long" if error.errno == errno.ENAMETOOLONG else error.strerror or str(error)
        raise ImageError(path, f"cannot be read: {reason}; check the name and the disk") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, "is not a valid file name; check the name") from error


def _decode(name: str, data: bytes, max_pixels: int, keep: Keep = "all", strict: bool = False) -> Picture:
    kind, said = kind_of(data), dict[Any, Any]()
    if kind in {"png", "jxl"}:
        # check the size first, so that nothing else of a file with too many pixels is parsed
        check_size(name, size_of(name, BytesIO(data)), max_pixels)
    ends_early = False
    if kind in {"boxed", "jpeg2000"}:
        from linearsr.images.cut import is_cut

        ends_early = is_cut(data)
    if kind == "png":
        file = BytesIO(data)
        found = scan(file)
        if found.damaged:
            kinds = ", ".join(sorted({kind.decode("ascii") for kind in found.damaged}))
            _tell_repair(
                name, f"has a wrong checksum outside its pixels ({kinds}); that part is left out", strict
            )
        ends_early, data, said = found.is_cut, without_asides(file, found), described(found)
        if not ends_early:
            # decoding alone would skip the checksums of the pixel data
            open_image(name, data).verify()

    def decode(data: bytes, level: int | None = None) -> tuple[Image.Image, Samples]:
        def opens() -> Image.Image:
            im = open_image(name, data)
            check_size(name, im.size, max_pixels)
            if level is not None:
                from linearsr.images.cut import keep_what_is_read

                keep_what_is_read(im, level)
            return im

        return _samples(name, data, opens, level)

    try:
        if ends_early:
            raise ValueError("its end is missing")
        im, samples = decode(data)
    except (ImageError, ForeignPixels, MemoryError):
        raise
    except Exception as error:
        if kind == "png" and not ends_early:
            raise
        # damaged or truncated: read the part that is there
        from linearsr.images.cut import read_what_is_there

        try:
            im, samples, problem = read_what_is_there(data, decode)
        except Exception:
            raise error from None
        _tell_repair(name, problem, strict)
    if im.format not in _STILL_FORMATS and getattr(im, "is_animated", False):
        warn_of(name, "has several frames or pages; only the first is used")
    if im.format in _MODERN_FORMATS:
        from linearsr.images.modern import complete_notes

        complete_notes(name, im, data)
    im.info.update(said)
    check_size(name, im.size, max_pixels)
    return _assemble(name, im, samples, keep)


def _tell_repair(name: str, problem: str, strict: bool) -> None:
    """Warn about damage that did not prevent reading the picture. Raises ImageError instead if `strict`."""
    if strict:
        raise ImageError(name, f"{problem}; get a new copy, or read it without strict mode")
    warn_of(name, problem)


def _decode_photo(name: str, data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a plain RGB JPEG or WebP to uint8 (H, W, 3); return None for an image that needs `_decode`."""
    im = open_image(name, data)
    if im.format not in _PHOTO_FORMATS or im.mode != "RGB":
        return None
    try:
        orientation = read_orientation(read_exif(im))
    except Exception:  # broken EXIF: `_decode` warns about it
        return None
    check_size(name, im.size, max_pixels)
    im.load()
    return upright(np.asarray(im), orientation)


def _samples(
    name: str, data: bytes, opens: Callable[[], Image.Image], level: int | None
) -> tuple[Image.Image, Samples]:
    im = opens()
    if isinstance(im, TiffImageFile):
        from linearsr.images.tiff_reading import depth_of, foreign_samples, is_foreign

        if is_foreign(im):
            return im, foreign_samples(im, level)
        if im.mode == "CMYK" and depth_of(im) > 8:
            warn_of(name, f"of its {depth_of(im)} bits per channel 8 are used, for it is CMYK")
    if im.format == "JPEG2000" or im.format in _MODERN_FORMATS:
        from linearsr.images.modern import deep_jpeg2000, deep_modern

        deep = deep_jpeg2000(im, data) if im.format == "JPEG2000" else deep_modern(name, im, data)
    else:
        deep = deep_ppm(data) if im.format == "PPM" else deep_colour(im, opens)
        im.load()
    return im, deep or samples_of(im)


def _assemble(name: str, im: Image.Image, samples: Samples, keep: Keep = "all") -> Picture:
    height, width, channels = samples.colour.shape
    orientation, notes = read_notes(name, im, (height, width, channels), managed=samples.managed, keep=keep)
    alpha = None if samples.alpha is None else upright(samples.alpha, orientation)
    return Picture(upright(samples.colour, orientation), alpha, samples.bits, **vars(notes))
