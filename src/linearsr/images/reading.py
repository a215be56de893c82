"""Reading an image that may be anything: one still, upright picture comes out, or one ImageError."""

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from linearsr.images.deep import deep_raw_mode, read_deep
from linearsr.images.jpeg2000 import jpeg2000_is_whole
from linearsr.images.metadata import Keep, read_exif, read_notes, read_orientation, upright
from linearsr.images.picture import FloatArray, ImageError, Picture, quantise, warn_of
from linearsr.images.png_file import (
    PngFile,
    described,
    header_only,
    is_png,
    scan,
    without_asides,
    write_completed,
)
from linearsr.images.pnm import deep_ppm
from linearsr.images.samples import Samples, deep_samples, samples_of
from linearsr.images.tiff_pages import (
    CAMERA_RAW,
    ForeignTiff,
    foreign_samples,
    full_size_page,
    is_camera_raw,
    is_tiff,
    with_first_page,
)

Result = TypeVar("Result")

DEFAULT_MAX_PIXELS = 64_000_000
MAX_ASPECT = 1000

# EPS and WMF run other programs; the rest has no still image or only a stub in Pillow.
_REFUSED_FORMATS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS", "MCIDAS", "IPTC"})
# Cameras append previews to a JPEG (MPO) and Photoshop counts layers: one picture all the same.
_STILL_FORMATS = frozenset({"MPO", "PSD"})
_JPEG_FORMATS = frozenset({"JPEG", "MPO"})
JPEG_END = b"\xff\xd9"
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"heif", b"hevc"})
_HINT = "use PNG, JPEG, WebP, TIFF or another format that Pillow reads"


def read_image(
    source: str | Path | bytes | BinaryIO,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    *,
    keep: Keep = "all",
    strict: bool = False,
) -> Picture:
    """Read a still image from a path, the bytes of a file or a binary file object.

    The picture is upright (EXIF orientation applied), grey stays one channel, 16-bit grey and colour in PNG and TIFF
    stay 16-bit, CMYK becomes sRGB (through its ICC profile if it has one), palettes become RGB, every kind of
    transparency becomes alpha. Of an animation the first frame is taken, with a warning; a broken EXIF block or ICC
    profile is dropped, with a warning. The format is recognised by content, not by extension.

    A PNG with damage beside its pixels is read, and a PNG or JPEG that ends too early as far as it goes, with a warning
    that says what is missing; with `strict` that is an error. `keep` says which metadata comes along.

    Raises ImageError, one line with the name and the remedy, if the source is missing, unreadable, empty, truncated,
    corrupt, no image, has more than `max_pixels` pixels (decided from the header,
    before anything is decompressed), or is longer than 1000 times its width.
    """
    name, data = _load(source)
    return guarded(name, lambda: _decode(name, data, max_pixels, keep, strict))


def read_8_bit(source: str | Path | BinaryIO, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.uint8]:
    """(H, W, 3 or 1): the colour of `read_image`, to 8 bits, strictly. A JPEG photo takes half the time: no floats.

    Raises ImageError as `read_image` does.
    """
    name, data = _load(source)

    def decode() -> NDArray[np.uint8]:
        photo = _decode_photo(name, data, max_pixels)
        if photo is not None:
            return photo
        colour = _decode(name, data, max_pixels, strict=True).colour
        return quantise(colour, None, bits=8).astype(np.uint8, copy=False)

    return guarded(name, decode)


def read_size(
    source: str | Path | BinaryIO, name: str, max_pixels: int = DEFAULT_MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) as stored, from the header alone: fast, and blind to anything broken behind the header.

    Raises ImageError, calling the image `name`, as `read_image` does, as far as a header can tell.
    """

    def look() -> tuple[int, int]:
        with _header(name, source) as file:
            width, height = _identified(name, file, file.read(33)).size
        check_size(name, (width, height), max_pixels)
        return height, width

    return guarded(name, look)


def picture_from_pil(image: Image.Image) -> Picture:
    """Take over a Pillow image of any mode, with the rules and errors of `read_image`, except the pixel limit."""

    def take() -> Picture:
        image.load()
        try:
            samples = samples_of(image)
        except ValueError as error:
            raise ImageError(name, str(error)) from error
        return _assemble(name, image, samples)

    name = str(getattr(image, "filename", "") or "<PIL image>")
    return guarded(name, take)


def guarded(name: str, action: Callable[[], Result]) -> Result:
    """What `action` returns; whatever a decoder raises in it becomes an ImageError that calls the image `name`."""
    try:
        return action()
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(name, "does not fit the memory; reduce it first") from error
    except Image.DecompressionBombError as error:
        limit = "PIL.Image.MAX_IMAGE_PIXELS"
        raise ImageError(name, f"has more pixels than Pillow allows; reduce it, or raise {limit}") from error
    # Pillow's decoders raise nearly every exception there is on hostile input.
    except Exception as error:
        raise ImageError(
            name, f"is broken or truncated ({error or type(error).__name__}); get it anew"
        ) from error


def _load(source: str | Path | bytes | BinaryIO) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        name, data = "<bytes>", source
    elif isinstance(source, (str, Path)):
        name, data = str(source), _load_path(source)
    else:
        name = str(getattr(source, "name", "<stream>"))
        try:
            data = source.read()
        except (OSError, ValueError) as error:
            raise ImageError(name, f"cannot be read ({error}); open it for reading in binary mode") from error
    if not data:
        raise ImageError(name, "is empty; get it anew")
    return name, data


def _load_path(path: str | Path) -> bytes:
    try:
        if os.path.isdir(path):
            raise ImageError(path, "is a folder, not an image; name the images in it")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(path, "is a device or pipe, not a file; copy its content into a file")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(path, "does not exist; check the name") from error
    except PermissionError as error:
        raise ImageError(path, "cannot be read: no permission; change its permissions or owner") from error
    except OSError as error:
        reason = "the name is too long" if error.errno == errno.ENAMETOOLONG else error.strerror or str(error)
        raise ImageError(path, f"cannot be read: {reason}; check the name and the disk") from error
    except ValueError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(path, "is no valid file name; check the name") from error


def _decode(name: str, data: bytes, max_pixels: int, keep: Keep = "all", strict: bool = False) -> Picture:
    said: dict[Any, Any] = {}
    if is_png(data):
        # before its chunks are looked at: of a file with too many pixels nothing is
        check_size(name, _identified(name, header_only(data), data).size, max_pixels)
        data, said = _clean_png(name, data, strict)
    elif is_tiff(data) and (page := _full_size_page(name, BytesIO(data))):
        data = with_first_page(data, page)
    im = _open(name, data)
    check_size(name, im.size, max_pixels)
    if im.format == "JPEG2000" and not jpeg2000_is_whole(data):
        raise ImageError(name, "is broken or truncated (its end is missing); get it anew")
    if im.format == "PNG":
        # Decoding skips the checksums of the pixel data.
        _open(name, data).verify()
    if im.format not in _STILL_FORMATS and getattr(im, "is_animated", False):
        warnings.warn(f"{name}: has several frames or pages; only the first is used", stacklevel=4)
    try:
        samples = _samples(name, data, im)
    except OSError:
        if im.format not in _JPEG_FORMATS:
            raise
        data += JPEG_END
        im = _open(name, data)
        samples = _samples(name, data, im)
        tell_repair(name, rows_missing(name, *cut_rows(samples.colour)), strict)
    im.load()
    im.info.update(said)
    check_size(name, im.size, max_pixels)
    return _assemble(name, im, samples, keep)


def _clean_png(name: str, data: bytes, strict: bool) -> tuple[bytes, dict[Any, Any]]:
    """A PNG file without what may stop its decoder; what it says beside its pixels, for Pillow's `info`."""
    file = BytesIO(data)
    found = scan(file)
    tell_damage(name, found, strict)
    if not found.is_cut:
        return without_asides(file, found), described(found)
    target = BytesIO()
    complete_png(name, file, found, target, strict)
    return target.getvalue(), described(found)


def complete_png(name: str, file: BinaryIO, found: PngFile, target: BinaryIO, strict: bool) -> None:
    """Write a PNG that is cut with blank pixels where they are missing, and warn. Raises ImageError if `strict`."""
    try:
        there, rows = write_completed(file, found, target)
    except ValueError as error:
        raise ImageError(name, f"is truncated ({error}); get it anew") from error
    tell_repair(name, rows_missing(name, there, rows), strict)


def tell_damage(name: str, found: PngFile, strict: bool) -> None:
    """Warn of chunks beside the pixels that are left out, if there are any. Raises ImageError instead if `strict`."""
    if found.damaged:
        kinds = ", ".join(sorted({kind.decode("ascii") for kind in found.damaged}))
        tell_repair(name, f"has a wrong checksum beside its pixels ({kinds}), which is left out", strict)


def tell_repair(name: str, problem: str, strict: bool) -> None:
    """Warn of damage that a picture can be read in spite of. Raises ImageError instead if `strict`."""
    if strict:
        raise ImageError(name, f"{problem}; get it anew, or read it without strictness")
    warn_of(name, problem)


def rows_missing(name: str, there: int, rows: int) -> str:
    """What is wrong with a file that ends after some of its rows. Raises ImageError where it has none: no picture."""
    if not there:
        raise ImageError(name, "is broken or truncated: none of its rows is there; get it anew")
    if there >= rows:
        return "is truncated: its end is missing, though none of its rows"
    return f"is truncated: the last {rows - there} of its {rows} rows are missing and left blank"


def cut_rows(colour: FloatArray) -> tuple[int, int]:
    """Rows (H, W, C) of a truncated JPEG that are there, and all: what is missing is of one grey."""
    blank = np.abs(colour - np.float32(128 / 255)).max(axis=(1, 2)) < 0.5 / 255
    filled = np.flatnonzero(~blank)
    return (int(filled[-1]) + 1 if len(filled) else 0), len(colour)


def _decode_photo(name: str, data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """(H, W, 3) if it is an RGB JPEG with nothing special about it."""
    im = _open(name, data)
    if im.format not in _JPEG_FORMATS or im.mode != "RGB":
        return None
    try:
        orientation = read_orientation(read_exif(im))
    except Exception:  # broken EXIF: the long way warns about it
        return None
    check_size(name, im.size, max_pixels)
    im.load()
    return upright(np.asarray(im), orientation)


@contextmanager
def _header(name: str, source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """A file for its header alone: of a PNG nothing else."""
    with open(source, "rb") if isinstance(source, (str, Path)) else nullcontext(source) as file:
        begin = file.read(33)
        file.seek(0)
        if is_png(begin):
            yield header_only(begin)
        elif is_tiff(begin) and (page := _full_size_page(name, file)):
            file.seek(0)
            yield BytesIO(with_first_page(file.read(), page))
        else:
            file.seek(0)
            yield file


def _formats() -> list[str]:
    Image.init()
    return [format_name for format_name in Image.ID if format_name not in _REFUSED_FORMATS]


def _open(name: str, data: bytes) -> Image.Image:
    return _identified(name, BytesIO(data), data)


def _heif(name: str, file: BinaryIO) -> Image.Image:
    """A photo of a phone, already upright."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        hint = "pip install 'linearsr[heif]', or convert it to JPEG or PNG"
        raise ImageError(name, f"is a HEIC photo, which needs pillow-heif; {hint}") from error
    file.seek(0)
    try:
        image: Image.Image = HeifImageFile(file)
    except Exception as error:
        raise ImageError(name, f"is a broken HEIC photo ({error}); get it anew") from error
    return image


def _full_size_page(name: str, file: BinaryIO) -> int | None:
    try:
        return full_size_page(file)
    except ValueError as error:
        raise ImageError(name, str(error)) from error
    except Exception:  # too broken to tell
        return None


def _identified(name: str, file: BinaryIO, data: bytes) -> Image.Image:
    if is_camera_raw(data):
        raise ImageError(name, CAMERA_RAW)
    file.seek(0)
    try:
        return Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        if is_tiff(data):
            with suppress(Exception):
                file.seek(0)
                return ForeignTiff(file)
        if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
            return _heif(name, file)
        raise ImageError(name, f"is no image, or its header is broken; {_HINT}") from error


def check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    """Raises ImageError for a size (width, height) with nothing in it, more than `max_pixels`, or much too long."""
    width, height = size
    if min(size) < 1:
        raise ImageError(name, f"is {width}x{height} pixels: there is nothing in it; get it anew")
    if width * height > max_pixels:
        megapixels = f"{width * height / 1e6:.4g} megapixels exceed the limit of {max_pixels / 1e6:.4g}"
        raise ImageError(
            name,
            f"is {width}x{height} pixels: {megapixels}; reduce or crop it, or raise the limit (max_pixels)",
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(name, f"is {width}x{height} pixels: a line, not a picture; crop or stack it first")


def _samples(name: str, data: bytes, im: Image.Image) -> Samples:
    tags = getattr(im, "tag_v2", {})
    depths = tags.get(258, 8)
    if tags.get(284) == 2 and max(depths if isinstance(depths, tuple) else (depths,)) > 8:
        # Pillow reads these as 8-bit noise without an error.
        return _foreign(name, data, im)
    if isinstance(im, ForeignTiff):
        return _foreign(name, data, im)
    if im.format == "PPM" and (ppm := deep_ppm(data)) is not None:
        return deep_samples(ppm)
    raw_mode = deep_raw_mode(im)
    if raw_mode is None:
        im.load()
        try:
            return samples_of(im)
        except ValueError as error:
            raise ImageError(name, str(error)) from error
    array = read_deep(partial(_open, name, data), raw_mode)
    return deep_samples(array, im.info.get("transparency"))


def _foreign(name: str, data: bytes, im: Any) -> Samples:
    try:
        return foreign_samples(im, data)
    except ValueError as error:
        raise ImageError(name, str(error)) from error


def _assemble(name: str, im: Image.Image, samples: Samples, keep: Keep = "all") -> Picture:
    height, width, channels = samples.colour.shape
    notes = read_notes(name, im, (height, width, channels), managed=samples.managed, keep=keep)
    colour = upright(samples.colour, notes.orientation)
    alpha = None if samples.alpha is None else upright(samples.alpha, notes.orientation)
    return Picture(
        colour,
        alpha,
        samples.bits,
        notes.icc_profile,
        notes.exif,
        notes.dpi,
        texts=notes.texts,
        colour_chunks=notes.colour_chunks,
    )
