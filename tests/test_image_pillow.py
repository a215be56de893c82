"""Between Pictures and Pillow images; arrays that are no Picture."""

import numpy as np
import pytest

from image_tools import SRGB, random_picture
from linearsr.images.io import Picture, picture_from_pil, picture_to_pil


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_to_pil_and_back(channels):
    picture, integers = random_picture(
        channels=channels, icc_profile=SRGB if channels > 2 else None, dpi=(72, 72)
    )
    image = picture_to_pil(picture)
    assert image.mode == ("L", "LA", "RGB", "RGBA")[channels - 1]
    back = picture_from_pil(image)
    assert np.array_equal(back.quantised(), integers)
    assert (back.icc_profile, back.dpi) == (picture.icc_profile, (72, 72))


def test_deep_grey_stays_deep_in_pil_and_deep_colour_becomes_8_bit():
    grey, integers = random_picture(channels=1, bits=16)
    assert np.array_equal(np.asarray(picture_to_pil(grey)), integers[..., 0])
    colour, integers = random_picture(channels=3, bits=16)
    assert np.array_equal(np.asarray(picture_to_pil(colour)), np.rint(integers / 257))


def test_picture_refuses_arrays_that_do_not_fit():
    colour = np.zeros((4, 5, 3), np.float32)
    with pytest.raises(ValueError, match="colour must be"):
        Picture(colour.astype(np.float64))
    with pytest.raises(ValueError, match="colour must be"):
        Picture(colour[..., :2])
    with pytest.raises(ValueError, match="alpha must be"):
        Picture(colour, np.zeros((5, 4), np.float32))
    with pytest.raises(ValueError, match="bits must be"):
        Picture(colour, bits=12)
