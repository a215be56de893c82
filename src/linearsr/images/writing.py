"""Writing of pictures as PNG, JPEG, WebP, AVIF or TIFF; a file appears complete or not at all."""

import errno
import stat
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from PIL.ExifTags import Base

from linearsr.images.metadata import Metadata, exif_for_upright, parse_exif
from linearsr.images.picture import FloatArray, ImageError, Notes, Picture, quantise, warn_of
from linearsr.images.png import encode_png16, png_head
from linearsr.images.png_colour import profile_of
from linearsr.images.samples import to_pil
from linearsr.images.texts import as_jpeg_segment, keyword_packet, packet_for_upright
from linearsr.runtime.files import whole_file

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_IPTC_FORMATS = frozenset({"PNG", "JPEG", "TIFF"})
_NAMES = {"WEBP": "WebP", "AVIF": "AVIF"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"subsampling": "4:4:4", "optimize": True},
    "WEBP": {"method": 4},
    "AVIF": {"subsampling": "4:4:4"},
}
_LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 65535}
_LONGEST_IN_JPEG = {"exif": 65533, "xmp": 65502, "iptc": 65500}

_REMEDIES = {
    errno.EEXIST: "another program has just made it; choose another name or ask to overwrite it",
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another folder",
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "its parent is not a folder; choose another name",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def write_image(picture: Picture, path: str | Path, overwrite: bool = False, quality: int = 95) -> None:
    """Write a picture in the format of the file's extension, encoded by `encode_image`.

    The file appears under its name only when it is complete.

    Raises ImageError as `encode_image` does, if the file exists and `overwrite` is False, or if it cannot be
    written (nothing is left behind then); ValueError if `quality` is out of range.
    """
    path = Path(path)
    check_target(path, overwrite)
    data = encode_image(picture, path, quality)
    try:
        with whole_file(path, overwrite=overwrite) as draft:
            draft.write_bytes(data)
    except OSError as error:
        raise write_error(path, error) from error


def encode_image(picture: Picture, name: str | Path, quality: int = 95) -> bytes:
    """Return the bytes of an image file in the format of the extension of `name` (see `FORMATS`).

    PNG and TIFF are lossless with `picture.bits` bits per channel; JPEG, AVIF (both 4:4:4) and WebP have 8
    bits and `quality` (1 to 100). The file holds ICC profile, EXIF and XMP (orientation 1, true dimensions),
    IPTC, resolution, and tags (as XMP keywords). Text of PNG can only be kept in PNG, and IPTC not in WebP
    and AVIF; a warning says what is left out. JPEG has no alpha: the picture is flattened on white, with a
    warning.

    Raises ImageError if the extension is unknown, or if the picture has values that are not finite or is too
    large for the format or the memory; ValueError if `quality` is out of range.
    """
    path = Path(name)
    file_format = check_format(path)
    check_quality(quality)
    check_sides(path, file_format, picture.size)
    try:
        return _encode(picture, path, file_format, quality)
    except MemoryError as error:
        raise ImageError(path, "does not fit in memory; write a smaller picture") from error
    except ValueError as error:
        raise ImageError(path, str(error)) from error


def picture_to_pil(picture: Picture) -> Image.Image:
    """Convert a picture to a Pillow image: L, LA, RGB or RGBA, and I;16 for opaque 16-bit grey.

    Pillow has no mode for 16-bit colour, so it becomes 8-bit; use `write_image` to keep all bits. The
    metadata is in `info`, where Pillow's `save` finds the profile; pass `exif=image.info["exif"]` to keep
    EXIF.
    """
    channels = picture.colour.shape[2] + (picture.alpha is not None)
    image = to_pil(quantise(picture.colour, picture.alpha, 16 if picture.bits == 16 and channels == 1 else 8))
    image.info.update(_metadata(picture, "<picture>", ""))
    return image


def _encode(picture: Picture, path: Path, file_format: str, quality: int) -> bytes:
    metadata = _metadata(picture, path, file_format)
    if file_format == "TIFF":
        from linearsr.images.tiff import write_tiff

        samples, file = picture.quantised(), BytesIO()
        write_tiff(
            file, BytesIO(), lambda *rows: samples[slice(*rows)], samples.shape, samples.dtype, metadata
        )
        return file.getvalue()
    if file_format == "PNG" and picture.bits == 16:
        return encode_png16(picture.quantised().astype(np.uint16, copy=False), metadata)
    colour, alpha = picture.colour, picture.alpha
    if file_format == "JPEG" and alpha is not None:
        warn_of(path, "JPEG has no transparency; flattened on white")
        colour, alpha = on_white(colour, alpha), None
    samples = quantise(colour, alpha, 8)
    if file_format == "PNG":
        file = BytesIO()
        to_pil(samples).save(file, file_format)
        return png_head(file, metadata) + file.read()
    return encode_lossy(samples, file_format, quality, metadata)


def encode_lossy(samples: NDArray[Any], file_format: str, quality: int, metadata: Metadata) -> bytes:
    """Encode 8-bit samples (H, W, 1 to 4) as JPEG, WebP or AVIF."""
    options = dict(_OPTIONS[file_format], quality=quality)
    metadata = metadata.copy()
    if "iptc" in metadata:
        options["extra"] = as_jpeg_segment(metadata.pop("iptc"))
    if file_format != "JPEG" and samples.shape[2] < 3:
        # WebP and AVIF are always RGB, for which a profile for grey is meaningless
        metadata.pop("icc_profile", None)
    file = BytesIO()
    to_pil(samples).save(file, file_format, **options, **metadata)
    return file.getvalue()


def _metadata(picture: Picture, name: str | Path, file_format: str) -> Metadata:
    return file_metadata(picture, name, file_format, picture.size, picture.tags, picture.colour.shape[2])


def file_metadata(
    notes: Notes,
    name: str | Path,
    file_format: str,
    size: tuple[int, int],
    tags: Sequence[str],
    channels: int,
) -> Metadata:
    """Return the metadata to write with a picture of `size` (width, height) and `channels` of colour.

    `file_format` "" stands for a Pillow image. What the format cannot hold is left out, text with a warning.
    """
    try:
        tags_of_exif = parse_exif(notes.exif)
        if file_format == "AVIF":
            # an upright picture needs none, and to remove it Pillow would rewrite all text as ASCII
            tags_of_exif.pop(Base.Orientation, None)
        exif = exif_for_upright(tags_of_exif, size)
    except Exception:
        warn_of(name, "its EXIF data is broken and is dropped")
        exif = None
    profile = notes.icc_profile
    if profile is None and file_format != "PNG":
        profile = profile_of(dict(notes.colour_chunks), channels)
    xmp = notes.xmp and packet_for_upright(notes.xmp, size)
    if tags:
        xmp = keyword_packet(tags, xmp)
    blocks = {"icc_profile": profile, "exif": exif, "dpi": notes.dpi, "xmp": xmp}
    metadata = cast(Metadata, {key: block for key, block in blocks.items() if block})
    if notes.iptc and file_format in _IPTC_FORMATS:
        metadata["iptc"] = notes.iptc
    if file_format == "PNG":
        metadata["chunks"] = notes.colour_chunks + notes.png_texts
    if file_format == "JPEG":
        _fit_jpeg(metadata, notes, name)
    _tell_lost_text(notes, name, file_format)
    return metadata


def _tell_lost_text(notes: Notes, name: str | Path, file_format: str) -> None:
    if notes.png_texts and file_format not in {"PNG", ""}:
        keywords = sorted({data.partition(b"\0")[0].decode("latin-1") for _, data in notes.png_texts})
        words = f"only PNG can hold text such as {', '.join(keywords[:3])}, so it is left out; write PNG"
        warn_of(name, words)
    if notes.iptc and file_format in _NAMES:
        words = f"{_NAMES[file_format]} cannot hold IPTC data, so it is left out; write PNG, TIFF or JPEG"
        warn_of(name, words)


def _fit_jpeg(metadata: Metadata, notes: Notes, path: str | Path) -> None:
    """Drop the blocks that are too long for the segments of a JPEG file, with a warning."""
    names = {
        "exif": "EXIF data is",
        "xmp": "XMP data is" if notes.xmp else "tags are",
        "iptc": "IPTC data is",
    }
    for key, name in names.items():
        if len(cast(dict[str, bytes], metadata).get(key, b"")) > _LONGEST_IN_JPEG[key]:
            warn_of(path, f"its {name} too long for JPEG and {name.split()[-1]} left out")
            del cast(dict[str, bytes], metadata)[key]


def on_white(colour: FloatArray, alpha: FloatArray) -> FloatArray:
    """Flatten colour (H, W, C) with alpha (H, W) on a white background."""
    weight = np.clip(alpha, 0, 1)[..., None]
    return colour * weight + (1 - weight)


def check_format(path: Path) -> str:
    """Return the format of a name's extension. Raises ImageError if it is unknown or cannot be written."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise ImageError(path, f"has no extension of a known format; use one of {', '.join(FORMATS)}")
    if file_format == "AVIF" and not features.check("avif"):
        raise ImageError(path, "cannot be written: Pillow was built without AVIF; write WebP or PNG")
    return file_format


def check_sides(path: Path, file_format: str, size: tuple[int, int]) -> None:
    """Check the size (width, height) of a picture. Raises ImageError if it is too large for the format."""
    longest = _LONGEST_SIDE.get(file_format)
    if longest and max(size) > longest:
        sides = f"{size[0]}x{size[1]}"
        raise ImageError(path, f"{sides} pixels exceed the {longest} of {file_format}; write PNG or TIFF")


def check_quality(quality: int) -> None:
    """Check the quality. Raises ValueError if it is not from 1 to 100."""
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be from 1 to 100, not {quality}")


def check_target(path: Path, overwrite: bool) -> None:
    """Check a path. Raises ImageError if it cannot be written, or exists and must not be replaced."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if overwrite or not path.is_symlink():
            return
        mode = stat.S_IFREG  # a link to nothing has the name
    except (OSError, ValueError) as error:
        raise write_error(path, error) from error
    if stat.S_ISDIR(mode):
        raise ImageError(path, "is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise ImageError(path, "is a device or pipe, not a file; choose another name")
    if not overwrite:
        raise ImageError(path, "already exists; choose another name or ask to overwrite it")


def write_error(path: Path, error: OSError | ValueError) -> ImageError:
    """Return an ImageError that says in one line why a file cannot be written, and what to do."""
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.ENOENT and path.parent.is_dir():  # /proc answers so where it allows no new files
        code = errno.EACCES
    reason = _REMEDIES.get(code or 0) or f"{error}; choose another name or folder"
    return ImageError(path, f"cannot be written: {reason}")
