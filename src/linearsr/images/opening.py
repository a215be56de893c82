"""Opening of image files: recognition by content, size limits, and choice of the full-size page of a TIFF."""

import struct
from contextlib import nullcontext, suppress
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from linearsr.images.files import CAMERA_RAW, kind_of
from linearsr.images.metadata import inherit_notes
from linearsr.images.picture import ImageError
from linearsr.images.png import header_only

MAX_ASPECT = 1000
_BEGIN = 40
# EPS and WMF run other programs; the others hold no still image, or Pillow has only a stub for them.
_REFUSED_FORMATS = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FITS", "MCIDAS", "IPTC"})
# Formats with signatures long enough to recognise even a broken file by.
_NAMED_FORMATS = {kind: f"{kind} file" for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "AVIF", "PSD")} | {
    "WEBP": "WebP file",
    "JPEG2000": "JPEG 2000 file",
    "HEIF": "HEIC photo",
    "JXL": "JPEG XL file",
}
_NOT_READ = {b"P7\n": "PAM", b"PF\n": "colour PFM", b"v/1\x01": "OpenEXR", b"#?RAD": "Radiance HDR"}
_JXL_BOXES = 2**20


def open_image(name: str, source: bytes | BinaryIO) -> Image.Image:
    """Open an image file without reading its pixels.

    Raises ImageError if it is not an image or needs a library that is missing; for a broken file, what Pillow
    raises.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    file.seek(0)
    begin = file.read(_BEGIN)
    if not begin:
        raise ImageError(name, "is empty; get a new copy")
    if kind_of(begin) == "raw":
        raise ImageError(name, CAMERA_RAW)
    if kind_of(begin) == "tiff":
        from linearsr.images.tiff_reading import full_size_page, with_first_page

        if page := full_size_page(name, file):
            file.seek(0)
            data = file.read()
            image = _opened(name, BytesIO(with_first_page(data, page)), begin)
            with suppress(Exception):
                inherit_notes(image, _opened(name, BytesIO(data), begin))
            return image
    return _opened(name, file, begin)


def size_of(name: str, source: str | Path | BinaryIO) -> tuple[int, int]:
    """Return (width, height) of a file as stored; for PNG and JPEG XL only the header is parsed."""
    with open(source, "rb") if isinstance(source, (str, Path)) else nullcontext(source) as file:
        begin = file.read(_BEGIN)
        kind = kind_of(begin)
        if kind == "png":
            return open_image(name, header_only(begin[:33])).size
        if kind == "jxl":
            from linearsr.images.modern import jxl_header

            _use_jxl(name)
            return jxl_header(begin + file.read(_JXL_BOXES)).size
        if kind in {"webp", "boxed"}:
            from linearsr.images.cut import filled_up

            # these decoders do not open an incomplete file, so fill up what is missing
            return open_image(name, filled_up(begin + file.read())).size
        return open_image(name, file).size


def check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    """Check (width, height). Raises ImageError if it is empty, over `max_pixels` or beyond `MAX_ASPECT`."""
    width, height = size
    if min(size) < 1:
        raise ImageError(name, f"has no pixels ({width}x{height}); get a new copy")
    if width * height > max_pixels:
        megapixels = f"{width * height / 1e6:.4g} megapixels exceed the limit of {max_pixels / 1e6:.4g}"
        raise ImageError(
            name,
            f"is {width}x{height} pixels: {megapixels}; reduce or crop it, or raise the limit (max_pixels)",
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(
            name,
            f"is {width}x{height} pixels: one side is more than {MAX_ASPECT} times the other; crop it first",
        )


def _opened(name: str, file: BinaryIO, begin: bytes) -> Image.Image:
    Image.init()
    image = _by_pillow(file, begin)
    missing = kind_of(begin) if image is None else ""
    if missing == "tiff":
        from linearsr.images.tiff_reading import ForeignTiff

        with suppress(Exception):
            file.seek(0)
            return ForeignTiff(file)
    if missing == "boxed":
        _plugin(name, "a HEIC photo", "pillow_heif", "pillow-heif").register_heif_opener()
        image = _by_pillow(file, begin)
    if missing == "jxl":
        _use_jxl(name)
        image = _by_pillow(file, begin)
    if image is not None:
        return image
    for kind, words in _NAMED_FORMATS.items():
        if kind in Image.OPEN and _accepts(kind, begin):
            # the plugin for JPEG XL decodes the whole file when it opens it
            part = "it" if kind == "JXL" else "its header"
            raise ImageError(name, f"is a broken {words}: {part} is damaged or truncated; get a new copy")
    for start, words in _NOT_READ.items():
        if begin.startswith(start):
            raise ImageError(name, f"is of type {words}, which cannot be read; convert it to PNG or TIFF")
    raise ImageError(
        name,
        "is not an image, or its header is broken; use PNG, JPEG, WebP, TIFF or another format that Pillow reads",
    )


def _by_pillow(file: BinaryIO, begin: bytes) -> Image.Image | None:
    """Open a file like `Image.open`, but without Pillow's limit of pixels; None if no decoder accepts it."""
    for kind in Image.ID:
        if kind not in _REFUSED_FORMATS and _accepts(kind, begin):
            file.seek(0)
            with suppress(SyntaxError, IndexError, TypeError, RuntimeError, struct.error):
                return Image.OPEN[kind][0](file, "")
    return None


def _accepts(kind: str, begin: bytes) -> bool:
    accept = Image.OPEN[kind][1]
    with suppress(IndexError, TypeError, struct.error):
        answer = accept is None or accept(begin[:16])
        # a decoder answers with a string if it knows the format but does not support it
        return bool(answer) and not isinstance(answer, str)
    return False


def _plugin(name: str, what: str, module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        extra = module.removeprefix("pillow_")
        hint = f"pip install 'linearsr[{extra}]', or convert it to JPEG or PNG"
        raise ImageError(name, f"is {what}, which needs {package}; {hint}") from error


def _use_jxl(name: str) -> None:
    _plugin(name, "a JPEG XL image", "pillow_jxl", "pillow-jxl-plugin")
