"""What the vision towers of `transformers` want to see."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.images.resize import resize
from linearsr.runtime.checkpoints import CheckpointError, load_config


class Statistics(NamedTuple):
    """Mean and deviation that a tower's pixels are normalised with, for values in [0, 1], per channel."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


_IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_TOWERS = {
    "clip": ("CLIPVisionModel", _CLIP),
    "siglip": ("SiglipVisionModel", _HALF),
    "siglip2": ("Siglip2VisionModel", _HALF),
    "dinov2": ("Dinov2Model", _IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", _IMAGENET),
    "dinov3_vit": ("DINOv3ViTModel", _IMAGENET),
}


class Tower(NamedTuple):
    """One kind of vision tower."""

    model_type: str
    """The key in `transformers`, without "_vision_model"."""
    patch_size: int

    @property
    def class_name(self) -> str:
        """Its class in `transformers`."""
        return _TOWERS[self.model_type][0]

    def pixels(self, images: Tensor, size: int) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> normalised (B, 3, size, size), float32; the aspect ratio is not kept."""
        mean, deviation = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in _TOWERS[self.model_type][1]
        )
        square = (resize(images.float(), (size, size), "bicubic").clamp(-1, 1) + 1) / 2
        return (square - mean) / deviation

    def inputs(self, pixels: Tensor) -> dict[str, Any]:
        """What the tower's `forward` takes for normalised pixels (B, 3, size, size)."""
        if self.model_type == "siglip2":
            # the towers of any resolution take patches, each with its channels last
            side = pixels.shape[-1] // self.patch_size
            patches = F.unfold(pixels, self.patch_size, stride=self.patch_size).transpose(1, 2)
            patches = patches.reshape(*patches.shape[:2], 3, -1).transpose(2, 3).flatten(2)
            return {
                "pixel_values": patches,
                "pixel_attention_mask": torch.ones(
                    patches.shape[:2], dtype=torch.int32, device=pixels.device
                ),
                "spatial_shapes": torch.tensor([[side, side]] * len(pixels)),
            }
        if self.model_type in ("clip", "siglip"):
            return {"pixel_values": pixels, "interpolate_pos_encoding": True}
        return {"pixel_values": pixels}

    def count_patches(self, size: int) -> int:
        """How many patches an image of `size` by `size` has."""
        return (size // self.patch_size) ** 2


def tower_in(folder: Path, model_types: Collection[str]) -> Tower:
    """The tower that a folder holds, alone or beside a text tower.

    Raises:
        CheckpointError: no config, or another kind of model.
    """
    config = load_config(folder)
    name = str(config.get("model_type"))
    config = config.get("vision_config", config)
    model_type = name.removesuffix("_vision_model")
    if name not in model_types or model_type not in _TOWERS:
        raise CheckpointError(f"{folder}: holds a {name}; one of {', '.join(model_types)} is needed")
    # what a config of transformers leaves out has the default of its class: 32 in CLIP, 16 in the others
    patch_size = config.get("patch_size", {"clip": 32, "dinov2": 14}.get(model_type, 16))
    return Tower(model_type, int(patch_size))
