"""Pictures of one size go through the model together, as `LinearSRUpscaler` does it, with the results of each alone."""

from dataclasses import replace

import numpy as np
import pytest

from bulk_tools import png
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.images.reading import read_image
from tiny_model import build

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def pipe():
    return build()


def options(pipe, steps=3):
    return pipe.options(scale=2.5, num_inference_steps=steps, fidelity=0.3, color_fix="wavelet")


def test_together_as_alone(pipe):
    pictures = [read_image(png(seed, 14, 9)) for seed in range(3)]
    alone = [
        pipe.upscale(picture, seed=seed, scale=2.5, num_inference_steps=3, fidelity=0.3, color_fix="wavelet")
        for seed, picture in enumerate(pictures)
    ]
    together = pipe.upscale_together(pictures, [0, 1, 2], options(pipe))
    for one, other in zip(alone, together, strict=True):
        assert one.size == other.size == (35, 22)
        np.testing.assert_allclose(one.colour, other.colour, atol=LEVEL / 10)


def test_what_cannot_go_together(pipe):
    small, large = read_image(png(0)), read_image(png(0, 20, 20))
    with pytest.raises(ValueError, match="several sizes"):
        pipe.upscale_together([small, large], [0, 0], options(pipe))
    guided = build()
    guided.guidance = TagGuidance(TagGuidanceConfig(("ivy",), channels=16)).eval()
    with pytest.raises(ValueError, match="guided"):
        guided.upscale_together([small, small], [0, 0], replace(options(guided), guidance_scale=1.0))
