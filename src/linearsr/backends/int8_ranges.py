"""Which ranges a model's convolutions see on photos, so that it can compute in 8 bits, and how exact it then is."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from linearsr.images.convert import ImageInput
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import save_ranges
from linearsr.models import int8
from linearsr.models.int8 import Ranges
from linearsr.models.lr_stem import PredictiveStem
from linearsr.models.residual import ResidualBlock
from linearsr.pipeline import LinearSRPipeline

LR_SIDE = 64
"""Pixels on a side of the LR images that are looked at."""
_EXPERT = re.compile(r"experts\.\d+\.")
_SCALE = 4
_MARGIN_OF_EXPERTS = 1.25
"""Their blocks lose little in 8 bits, and so can have wide ranges, which fewer pixels leave."""


def lr_images(photos: Iterable[Path]) -> list[NDArray[np.float32]]:
    """Of each photo a part as it is, which is sharp, and a degraded one, which is noisy: (h, w, 3) in [0, 1]."""
    images = []
    for path in photos:
        photo = crop_to_multiple(read_rgb(path), _SCALE)
        images.append(photo[:LR_SIDE, :LR_SIDE])
        part = photo[: _SCALE * LR_SIDE, : _SCALE * LR_SIDE]
        images.append(degrade(part, PRESETS["realesrgan"], file_generator(0, path.stem), _SCALE))
    return images


def observed_ranges(pipeline: LinearSRPipeline, images: Sequence[ImageInput]) -> Ranges:
    """The ranges of stem and experts over the images, with a margin, by part and name.

    Experts share ranges. The pipeline must compute in floating point.
    """
    of_network = int8.find_ranges(pipeline.transformer or nn.Module(), _MARGIN_OF_EXPERTS)
    with int8.find_ranges(pipeline.lr_stem) as of_stem, of_network as of_experts:
        upscaled(pipeline, images, fidelity=0.0)
    ranges: Ranges = {f"lr_stem.{name}": value for name, value in of_stem.items()}
    for name, value in of_experts.items():
        int8.widen_(ranges, "transformer." + _EXPERT.sub("", name, count=1), value)
    return ranges


def fewer_and_fewer(pipeline: LinearSRPipeline, ranges: Ranges, images: Sequence[ImageInput]) -> list[Ranges]:
    """All ranges; then without those of the stem's block that loses most, of the two that do, and so on to none.

    What a block loses is measured with it alone in 8 bits, or taken to be less the later it comes where the processor
    does not have them. The pipeline must compute in floating point.
    """
    stem = pipeline.lr_stem
    count = len(stem.blocks) if isinstance(stem, PredictiveStem) else 0
    order = list(range(count))
    if int8.supported():
        expected = upscaled(pipeline, images)
        order.sort(key=lambda block: _error_with(block, pipeline, ranges, images, expected), reverse=True)
    left_out = [{f"lr_stem.blocks.{block}" for block in order[:worst]} for worst in range(count + 1)]
    return [
        {name: value for name, value in ranges.items() if name.rpartition(".")[0] not in without}
        for without in left_out
    ]


def _error_with(
    index: int,
    pipeline: LinearSRPipeline,
    ranges: Ranges,
    images: Sequence[ImageInput],
    expected: Sequence[Tensor],
) -> float:
    """The mean squared error over all images with one block of the stem in 8 bits."""
    block = cast(PredictiveStem, pipeline.lr_stem).blocks[index]
    int8.use_int8_(block, ranges, f"lr_stem.blocks.{index}")
    try:
        return fmean(10 ** (-decibels / 10) for decibels in agreement(pipeline, images, expected))
    finally:
        cast(ResidualBlock, block).processor = None


def upscaled(
    pipeline: LinearSRPipeline, images: Sequence[ImageInput], fidelity: float | None = None
) -> list[Tensor]:
    """The results (C, H, W), all in as many steps, so that what counts as clean does not matter.

    As by default, but at least one, or the mean where there are no experts: the trunk's picture says nothing of 8 bits.
    """
    steps = max(1, pipeline.config.num_inference_steps)
    if pipeline.transformer is None:
        steps, fidelity = 0, 1.0
    return pipeline(images, num_inference_steps=steps, fidelity=fidelity, output_type="pt").images


def agreement(
    pipeline: LinearSRPipeline, images: Sequence[ImageInput], expected: Sequence[Tensor]
) -> list[float]:
    """PSNR in dB between the results (C, H, W) for images and those that are expected, for each image."""
    found = upscaled(pipeline, images)
    return [float(-10 * torch.log10((a - b).square().mean())) for a, b in zip(found, expected, strict=True)]


def write_with_ranges(source: Path, folder: Path, ranges: Ranges) -> None:
    """The model of `source` in `folder`, which may be the same, with these ranges."""
    if folder.resolve() != source.resolve():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    save_ranges(folder, ranges)
