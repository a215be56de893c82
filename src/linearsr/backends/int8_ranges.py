"""The ranges of a trunk's dense blocks on photos, needed to compute in 8 bits, and the resulting accuracy."""

import shutil
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.images.convert import ImageInput
from linearsr.images.degradation import PRESETS, degrade
from linearsr.images.photos import crop_to_multiple, file_generator, read_rgb
from linearsr.model_folder import save_ranges
from linearsr.models import int8
from linearsr.models.int8 import Ranges
from linearsr.pipeline import LinearSRPipeline

LR_SIDE = 96
"""Side in pixels of the LR images that are used."""
_SCALE = 4


def lr_images(photos: Iterable[Path]) -> list[NDArray[np.float32]]:
    """Degrade a part of each photo twice, by two of the presets in turn: (h, w, 3) in [0, 1]."""
    images, presets = [], cycle(PRESETS.values())
    for path in photos:
        photo = crop_to_multiple(read_rgb(path), _SCALE)[: _SCALE * LR_SIDE, : _SCALE * LR_SIDE]
        for seed in range(2):
            images.append(degrade(photo, next(presets), file_generator(seed, path.stem), _SCALE))
    return images


def observed_ranges(pipeline: LinearSRPipeline, images: Iterable[ImageInput]) -> Ranges:
    """Return the ranges of the trunk over the images. The pipeline must have one, in floating point."""
    assert pipeline.trunk is not None
    with int8.find_ranges(pipeline.trunk) as ranges:
        drawn(pipeline, images)
    return ranges


def drawn(pipeline: LinearSRPipeline, images: Iterable[ImageInput]) -> list[Tensor]:
    """Return the trunk's pictures (C, H, W) of the images."""
    return [
        pipeline(image, num_inference_steps=0, fidelity=0.0, output_type="pt").images[0] for image in images
    ]


def agreement(pictures: Iterable[Tensor], exact: Iterable[Tensor]) -> list[float]:
    """Return the PSNR in dB of each picture (C, H, W) against the exact one."""
    pairs = zip(pictures, exact, strict=True)
    return [float(-10 * torch.log10((a - b).square().mean())) for a, b in pairs]


def write_with_ranges(source: Path, folder: Path, ranges: Ranges) -> None:
    """Write the model of `source` with these ranges into `folder`, which may be the same folder."""
    if folder.resolve() != source.resolve():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    save_ranges(folder, ranges)
