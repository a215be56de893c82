"""Conversion of Pillow images to arrays of colour and alpha in [0, 1], with 16 bits where Pillow keeps 8."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile

from linearsr.images.metadata import to_srgb
from linearsr.images.picture import FloatArray

# Float files should be within [0, 1]. Filters overshoot a little; any other range is some physical unit.
_FLOAT_TOLERANCE = 0.1
_PPM_HEAD = re.compile(rb"P([36])" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3 + rb"\s")
# Byte order in a raw mode -> the other one. libtiff swaps to the machine's order, which Pillow calls N.
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP_LAYOUTS = frozenset({"RGB", "RGBX", "RGBA", "RGBa"})


class ForeignPixels(ValueError):
    """An error about pixels of an unsupported kind or range; its message tells the user what to do."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Decoded pixels: `colour` float32 (H, W, 3 or 1) and `alpha` float32 (H, W) or None, in [0, 1].

    `bits`: bits per channel; `managed`: the colours have been converted to sRGB, so its profile no longer
    applies.
    """

    colour: FloatArray
    alpha: FloatArray | None
    bits: Literal[8, 16]
    managed: bool = False


def samples_of(im: Image.Image) -> Samples:
    """Return the samples of a loaded Pillow image of any mode.

    Raises ForeignPixels for NaN, infinity, and integers or floats of unknown range.
    """
    if im.mode == "F":
        return Samples(checked_float(np.asarray(im))[..., None], None, 16)
    if im.mode == "I" or im.mode.startswith("I;16"):
        return _deep_grey(im)
    if im.mode in {"CMYK", "LAB", "HSV", "YCbCr"}:
        rgb = _to_rgb(im)
        return Samples(_unit(np.asarray(rgb)), None, 8, managed=True)
    plain = im.convert(_plain_mode(im))
    array = _unit(np.asarray(plain))
    if array.ndim == 2:
        return Samples(array[..., None], None, 8)
    return split_alpha(array, 8, has_alpha=plain.mode.endswith("A"))


def split_alpha(array: FloatArray, bits: Literal[8, 16], has_alpha: bool, managed: bool = False) -> Samples:
    """Split (H, W, C) in [0, 1] into colour and, if `has_alpha`, the last channel as alpha."""
    colour = np.ascontiguousarray(array[..., :-1] if has_alpha else array)
    return Samples(colour, np.ascontiguousarray(array[..., -1]) if has_alpha else None, bits, managed)


def unmultiplied(samples: FloatArray) -> FloatArray:
    """Undo premultiplication: divide the colours of (H, W, C) by alpha, the last channel."""
    colour, alpha = samples[..., :-1], samples[..., -1:]
    straight = np.divide(colour, alpha, out=np.zeros_like(colour), where=alpha > 0)
    return np.concatenate([np.clip(straight, 0, 1), alpha], axis=-1)


def deep_samples(array: NDArray[np.uint16], transparent: Any = None) -> Samples:
    """Scale 16-bit (H, W, 1 to 4) to [0, 1]; pixels of colour `transparent` (tRNS of a PNG) get alpha 0."""
    unit = array.astype(np.float32) / np.float32(65535)
    if transparent is None or array.shape[2] in {2, 4}:
        return split_alpha(unit, 16, has_alpha=array.shape[2] in {2, 4})
    key = np.asarray(transparent, dtype=np.int64).reshape(-1)
    return Samples(unit, (array != key).any(axis=-1).astype(np.float32), 16)


def deep_colour(im: Image.Image, opens: Callable[[], Image.Image]) -> Samples | None:
    """Return the samples of an opened, not yet loaded image with 16-bit colour channels; None for any other.

    Pillow has no such mode: its decoders unpack the high byte of a little- or big-endian pair, as the raw
    mode of a tile says. If the raw mode names the other byte order, they return the low byte. Two passes thus
    give all bits, for every filter, interlacing and compression that Pillow knows. `opens` opens the image
    again for each.
    """
    if not isinstance(im, ImageFile.ImageFile) or im.mode not in {"RGB", "RGBA"} or not im.tile:
        return None
    args: Any = im.tile[0][3]
    raw_mode = str(args if isinstance(args, str) else args[0] if args else "")
    layout, _, depth = raw_mode.partition(";16")
    if raw_mode == "LA;16B":
        # a pixel has four bytes, as in 8-bit RGBA: high and low byte of L, high and low byte of A
        pairs = _decoded_as(opens(), "RGBA").astype(np.uint16)
        return deep_samples(pairs[..., 0::2] * np.uint16(256) + pairs[..., 1::2])
    if layout not in _DEEP_LAYOUTS or depth not in _OTHER_ORDER:
        return None
    plain = "RGBA" if layout == "RGBa" else layout
    high = _decoded_as(opens(), f"{plain};16{depth}").astype(np.uint16)
    low = _decoded_as(opens(), f"{plain};16{_OTHER_ORDER[depth]}")
    samples = high * np.uint16(256) + low
    if layout == "RGBa":
        return split_alpha(unmultiplied(samples.astype(np.float32) / np.float32(65535)), 16, has_alpha=True)
    return deep_samples(samples, im.info.get("transparency"))


def _decoded_as(im: Image.Image, raw_mode: str) -> NDArray[np.uint8]:
    image: Any = im
    tiles = []
    for tile in image.tile:
        args = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
        tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
    image.tile = tiles
    image.load()
    return np.asarray(image)


def deep_ppm(data: bytes) -> Samples | None:
    """Return the samples of a PPM (Netpbm's P6, P3) with over 8 bits, of which Pillow keeps 8; else None."""
    head = _PPM_HEAD.match(data)
    if head is None:
        return None
    kind, width, height, white = map(int, head.groups())
    count = width * height * 3
    if not 255 < white <= 65535 or len(data) < head.end() + 2 * count - 1:
        return None
    try:
        if kind == 6:
            samples = np.frombuffer(data, ">u2", count, head.end())
        else:
            samples = np.array(data[head.end() :].split(None, count)[:count]).astype(np.int64)
        samples = samples.reshape(height, width, 3)
    except (ValueError, OverflowError):  # it ends too early, or has comments
        return None
    scaled = np.clip(samples, 0, white).astype(np.uint32)
    return deep_samples(((scaled * 65535 + white // 2) // white).astype(np.uint16))


def to_pil(quantised: NDArray[np.uint8] | NDArray[np.uint16]) -> Image.Image:
    """Make a Pillow image of (H, W, 1 to 4) integers; 16-bit ones must have one channel (mode I;16)."""
    return Image.fromarray(quantised[..., 0] if quantised.shape[2] == 1 else quantised)


def _plain_mode(im: Image.Image) -> str:
    """Return the mode, L, LA, RGB or RGBA, that holds everything in `im`."""
    grey = im.mode in {"1", "L", "LA", "La"}
    alpha = im.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in im.info
    return ("L" if grey else "RGB") + ("A" if alpha else "")


def _unit(array: NDArray[np.uint8]) -> FloatArray:
    return array.astype(np.float32) / np.float32(255)


def _deep_grey(im: Image.Image) -> Samples:
    values = np.asarray(im).astype(np.int64)
    tags: Any = getattr(im, "tag_v2", {})
    depth = tags.get(258, 16)
    largest = 2 ** (depth[0] if isinstance(depth, tuple) else depth) - 1
    largest = 65535 if largest > 65535 else largest
    if tags.get(339) == (2,) or tags.get(339) == 2 or values.min() < 0 or values.max() > largest:
        raise ForeignPixels(
            "has 32-bit or signed integers of unknown range; convert it to 8 or 16 bits per channel"
        )
    if tags.get(262) == 0:
        values = largest - values
    if largest != 65535:
        values = (values * 65535 + largest // 2) // largest
    return deep_samples(values.astype(np.uint16)[..., None], im.info.get("transparency"))


def checked_float(array: NDArray[np.floating[Any]]) -> FloatArray:
    """Clip float samples to float32 in [0, 1]. Raises ForeignPixels for NaN, infinity or another range."""
    if not np.isfinite(array).all():
        raise ForeignPixels("has pixels that are NaN or infinite; replace them with finite values")
    low, high = float(array.min()), float(array.max())
    if low < -_FLOAT_TOLERANCE or high > 1 + _FLOAT_TOLERANCE:
        raise ForeignPixels(f"has float pixels from {low:g} to {high:g}; scale them to the range 0 to 1")
    clipped: FloatArray = np.clip(array, 0, 1).astype(np.float32)
    return clipped


def _to_rgb(im: Image.Image) -> Image.Image:
    profile = im.info.get("icc_profile")
    if profile and im.mode != "HSV":
        try:
            return to_srgb(im, profile)
        except ImageCms.PyCMSError:
            pass  # the profile is for another colour space: the usual formulas are the best guess
    if im.mode == "LAB":
        return to_srgb(im, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())
    return im.convert("RGB")
