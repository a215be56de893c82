"""Conversion between the image types that callers use and `Picture`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from linearsr.images.alpha import fill_transparent
from linearsr.images.picture import Picture, warn_of
from linearsr.images.reading import picture_from_pil, read_image
from linearsr.images.samples import checked_float, split_alpha
from linearsr.images.writing import picture_to_pil
from linearsr.runtime.files import prefixed

OutputType = Literal["pil", "np", "pt", "latent"]
ImageInput = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any] | Tensor
"""An image as callers may pass it: a path; the bytes of a file, or a file opened in binary mode; a PIL image;
an array (h, w) or (h, w, C) of uint8, uint16, bool or float in [0, 1]; a tensor (C, h, w) of the same
types."""


def as_list(image: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    """Return one image, a batch (B, C, h, w) or (B, h, w, C), or a list of these as a list of single images.

    Raises:
        TypeError: `image` is something else.
    """
    if isinstance(image, (Tensor, np.ndarray)) and image.ndim == 4:
        return list(image)
    if isinstance(image, (bytearray, memoryview)):
        return [bytes(image)]
    if isinstance(image, (str, os.PathLike, bytes, Image.Image, np.ndarray, Tensor)):
        return [image]
    if hasattr(image, "read"):
        return [cast(BinaryIO, image)]
    if isinstance(image, Iterable) and not isinstance(image, Mapping):
        return [single for item in image for single in as_list(item)]
    raise TypeError(
        "an image must be a path, a PIL image, an array, a tensor, the bytes of a file or an open file, "
        f"not {type(image).__name__}"
    )


def as_picture(image: ImageInput) -> Picture:
    """Convert any `ImageInput`. Raises ImageError for an unreadable file, ValueError for an unfit array."""
    if isinstance(image, Image.Image):
        return picture_from_pil(image)
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ValueError(f"an image tensor must be (C, h, w), not {tuple(image.shape)}")
        samples = image.detach().cpu().permute(1, 2, 0)
        return picture_from_array((samples.float() if samples.is_floating_point() else samples).numpy())
    if isinstance(image, np.ndarray):
        return picture_from_array(image)
    if isinstance(image, os.PathLike):
        image = Path(image)
    return read_image(image)


def lr_tensor(picture: Picture) -> Tensor:
    """Return the network's input (1, 3, h, w) in [-1, 1]: grey as RGB, transparent pixels filled in."""
    colour = picture.colour
    if picture.alpha is not None:
        colour = fill_transparent(colour, picture.alpha)
    rgb = np.broadcast_to(colour, (*colour.shape[:2], 3))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None] * 2 - 1


def picture_from_array(array: NDArray[Any]) -> Picture:
    """Convert an array (h, w) or (h, w, C) of uint8, uint16, bool, or float in [0, 1].

    C is from 1 to 4; with 2 or 4 channels the last one is alpha.

    Raises:
        ValueError: another shape or type, or values that are NaN, infinite or far outside [0, 1].
    """
    samples = array[..., None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4) or 0 in samples.shape:
        raise ValueError(f"an image array must be (h, w) or (h, w, 1 to 4), not {array.shape}")
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if samples.dtype == bool:
        unit = samples.astype(np.float32)
    elif samples.dtype in (np.uint8, np.uint16):
        unit = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    elif np.issubdtype(samples.dtype, np.floating):
        with prefixed("the image array ", ValueError):
            unit = checked_float(samples)
    else:
        raise ValueError(f"an image array must be uint8, uint16, bool or float in [0, 1], not {array.dtype}")
    split = split_alpha(unit, 16 if samples.dtype == np.uint16 else 8, has_alpha=unit.shape[2] in (2, 4))
    return Picture(split.colour, split.alpha, split.bits)


def from_picture(picture: Picture, output_type: OutputType) -> Any:
    """Return a PIL image, or a float32 array (H, W, C) or tensor (C, H, W) in [0, 1] with alpha last."""
    if output_type == "pil":
        if picture.bits == 16 and (picture.colour.shape[2] > 1 or picture.alpha is not None):
            warn_of(
                "the result", "Pillow has 16 bits for grey alone: 8 are left; ask for output_type np or pt"
            )
        return picture_to_pil(picture)
    parts = [picture.colour] if picture.alpha is None else [picture.colour, picture.alpha[..., None]]
    array = np.concatenate(parts, axis=2)
    if output_type == "np":
        return array
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
