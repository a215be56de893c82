"""Features of the LR image as guidance: the patches of CLIP, SigLIP 2, DINOv2 or DINOv3.

Shapes: B images, h w LR size, L tokens of C channels.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart, read_network
from linearsr.images.resize import resize
from linearsr.runtime.checkpoints import CheckpointError, load_config

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation that pixels are normalised with, for values in [0, 1], per channel."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_TOWERS = {
    "clip": ("CLIPVisionModel", _CLIP),
    "siglip": ("SiglipVisionModel", _HALF),
    "siglip2": ("Siglip2VisionModel", _HALF),
    "dinov2": ("Dinov2Model", IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", IMAGENET),
    "dinov3_vit": ("DINOv3ViTModel", IMAGENET),
}


def normalised_square(images: Tensor, size: int, statistics: Statistics) -> Tensor:
    """(B, 3, h, w) in [-1, 1] -> normalised (B, 3, size, size), float32; the aspect ratio is not kept."""
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in statistics)
    square = (resize(images.float(), (size, size), "bicubic").clamp(-1, 1) + 1) / 2
    return (square - mean) / deviation


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
        return normalised_square(images, size, _TOWERS[self.model_type][1])

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
    """The tower that a folder holds, alone or beside a text tower. Raises CheckpointError if it holds none."""
    config = load_config(folder)
    name = str(config.get("model_type"))
    config = config.get("vision_config", config)
    model_type = name.removesuffix("_vision_model")
    if name not in model_types or model_type not in _TOWERS:
        raise CheckpointError(f"{folder}: holds a {name}; one of {', '.join(model_types)} is needed")
    # what a config of transformers leaves out has the default of its class: 32 in CLIP, 16 in the others
    patch_size = config.get("patch_size", {"clip": 32, "dinov2": 14}.get(model_type, 16))
    return Tower(model_type, int(patch_size))


@dataclass(frozen=True)
class VisionGuidanceConfig:
    """`CLIPGuidance` and `DINOGuidance`."""

    image_encoder: str = "image_encoder"
    """Folder or hub id of the encoder."""
    channels: int = 768
    """Width of the encoder: the `caption_channels` of the network."""
    image_size: int = 224
    """Side to which the LR image is resized, as a square, in pixels: a multiple of the encoder's patches."""

    def __post_init__(self) -> None:
        if min(self.channels, self.image_size) < 1:
            raise ValueError("channels and image_size must be at least 1")


class VisionGuidance(EncoderPart, Guidance):
    """The last hidden states of a vision tower at the patches of the whole image, resized to a square."""

    config_class: ClassVar[type[VisionGuidanceConfig]] = VisionGuidanceConfig
    config: VisionGuidanceConfig
    folder_fields = ("image_encoder",)
    model_types: ClassVar[tuple[str, ...]]
    """What encoders of this kind call themselves in their config."""
    kind: GuidanceKind

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Tokens for LR images (B, 3, h, w) in [-1, 1], one for each patch. The tags are not looked at."""
        images = self.tower.pixels(lr.to(self.device), self.config.image_size)
        keys = [blake2b(image.cpu().numpy().tobytes()).digest() for image in images]
        named = dict(zip(keys, images, strict=True))
        made = self.remembered(
            keys, lambda missing: self._encode(torch.stack([named[key] for key in missing]))
        )
        return GuidanceTokens(torch.stack(made))

    def _encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, L, C)"""
        with self.encoder() as encoder:
            inputs = self.tower.inputs(pixels.to(self.encoder_dtype))
            states: Tensor = encoder(**inputs).last_hidden_state
        # the class token and registers come first
        return states[:, -self.tower.count_patches(self.config.image_size) :]

    @cached_property
    def tower(self) -> Tower:
        """What its encoder wants to see."""
        folder, size = self.folder("image_encoder"), self.config.image_size
        tower = tower_in(folder, self.model_types)
        if size % tower.patch_size:
            raise CheckpointError(
                f"{folder}: image_size {size} is no multiple of its patches, {tower.patch_size}"
            )
        return tower

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """The vision tower. Raises CheckpointError if it is missing, of another kind or of another width."""
        folder, tower = self.folder("image_encoder"), self.tower
        return read_network("the image encoder", folder, tower.class_name, dtype, self.channels)


class CLIPGuidance(VisionGuidance):
    """Guidance by a tower that was trained with texts: CLIP, SigLIP or SigLIP 2."""

    kind: GuidanceKind = "clip"
    model_types = (
        "clip",
        "clip_vision_model",
        "siglip",
        "siglip_vision_model",
        "siglip2",
        "siglip2_vision_model",
    )


class DINOGuidance(VisionGuidance):
    """Guidance by a tower that was trained on images alone: DINOv2, with or without registers, or DINOv3."""

    kind: GuidanceKind = "dino"
    model_types = ("dinov2", "dinov2_with_registers", "dinov3_vit")
