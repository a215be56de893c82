"""Images in and out: the names that other rooms use."""

from linearsr.images.picture import ImageError, Picture
from linearsr.images.reading import DEFAULT_MAX_PIXELS, picture_from_pil, read_8_bit, read_image, read_size
from linearsr.images.writing import FORMATS, encode_image, picture_to_pil, write_image

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "FORMATS",
    "ImageError",
    "Picture",
    "encode_image",
    "picture_from_pil",
    "picture_to_pil",
    "read_8_bit",
    "read_image",
    "read_size",
    "write_image",
]
