"""Sixteen bits per colour channel out of Pillow, which has no such image mode and keeps the high bytes only.

Its decoders unpack 16-bit samples as "the high byte" of a little- or big-endian pair, named by the raw mode of a
tile. Naming the other byte order makes the same decoder return the low bytes. Two passes therefore give all 16 bits,
for every filter, interlacing and compression that Pillow knows, at C speed and without another dependency.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_FOREIGN = "B" if sys.byteorder == "little" else "L"
# libtiff swaps to the byte order of the machine, for which Pillow's name is N.
_OTHER_ORDER = {"L": "B", "B": "L", "N": _FOREIGN}
_LAYOUTS = ("RGB", "RGBX", "RGBA", "RGBa")


def deep_raw_mode(im: Image.Image) -> str | None:
    """Return the raw mode of an opened, not yet loaded image if it has 16-bit colour channels, else None."""
    if not isinstance(im, ImageFile.ImageFile) or im.mode not in {"RGB", "RGBA"} or not im.tile:
        return None
    raw_mode = _raw_mode(im.tile[0])
    layout, _, depth = raw_mode.partition(";")
    if raw_mode == "LA;16B" or (layout in _LAYOUTS and depth in {"16L", "16B", "16N"}):
        return raw_mode
    return None


def read_deep(open_image: Callable[[], Image.Image], raw_mode: str) -> NDArray[np.uint16]:
    """Decode an image of the given 16-bit raw mode to (H, W, C): 2 channels for LA, 4 for RGBA, else 3.

    `open_image` opens the image afresh, because each of the two passes needs an unread one. Colour that is stored
    multiplied by alpha ("RGBa") is divided by it.
    """
    if raw_mode == "LA;16B":
        # A pixel is four bytes, as in 8-bit RGBA: high and low of L, high and low of A.
        pairs = _decode(open_image(), "RGBA").astype(np.uint16)
        return pairs[..., 0::2] * np.uint16(256) + pairs[..., 1::2]
    layout, _, depth = raw_mode.partition(";16")
    plain = "RGBA" if layout == "RGBa" else layout
    high = _decode(open_image(), f"{plain};16{depth}").astype(np.uint16)
    low = _decode(open_image(), f"{plain};16{_OTHER_ORDER[depth]}")
    samples = high * np.uint16(256) + low
    return _unmultiplied(samples) if layout == "RGBa" else samples


def _decode(im: Image.Image, raw_mode: str) -> NDArray[np.uint8]:
    image: Any = im
    image.tile = [_renamed(tile, raw_mode) for tile in image.tile]
    image.load()
    return np.asarray(image)


def _renamed(tile: Any, raw_mode: str) -> Any:
    args = raw_mode if isinstance(tile[3], str) else (raw_mode, *tile[3][1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args)


def _raw_mode(tile: Any) -> str:
    args = tile[3]
    return str(args if isinstance(args, str) else args[0] if args else "")


def _unmultiplied(samples: NDArray[np.uint16]) -> NDArray[np.uint16]:
    colour, alpha = samples[..., :3].astype(np.float32), samples[..., 3:].astype(np.float32)
    straight = np.divide(colour * 65535, alpha, out=np.zeros_like(colour), where=alpha > 0)
    return np.concatenate([np.rint(np.minimum(straight, 65535)).astype(np.uint16), samples[..., 3:]], axis=-1)
