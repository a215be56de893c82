"""Features of the LR image as guidance: the patch tokens of CLIP, DINOv2 or DINOv3.

Shapes: B images, h w LR size, L tokens of C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor, nn

from linearsr.guidance.base import Guidance, GuidanceKind, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart, read_network
from linearsr.images.resize import resize
from linearsr.runtime.checkpoints import CheckpointError, load_config

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation per channel with which pixels in [0, 1] are normalised."""

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

_TOWERS = {
    "clip": ("CLIPVisionModel", _CLIP),
    "dinov2": ("Dinov2Model", IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", IMAGENET),
    "dinov3_vit": ("DINOv3ViTModel", IMAGENET),
}
"""For each kind, its class in `transformers` and the statistics that normalise its pixels."""
_PATCH_SIZES = {"clip": 32, "dinov2": 14}
"""Defaults of the classes in `transformers`, for configs that leave the patch size out; 16 for the others."""


def normalised_square(images: Tensor, size: int, statistics: Statistics) -> Tensor:
    """Resize (B, 3, h, w) in [-1, 1] to (B, 3, size, size), normalised, float32, at any aspect ratio."""
    mean, deviation = (torch.tensor(values, device=images.device)[:, None, None] for values in statistics)
    square = (resize(images.float(), (size, size), "bicubic").clamp(-1, 1) + 1) / 2
    return (square - mean) / deviation


@dataclass(frozen=True)
class VisionGuidanceConfig:
    """Settings of `CLIPGuidance` and `DINOGuidance`."""

    image_encoder: str = "image_encoder"
    """Folder or hub id of the encoder."""
    channels: int = 768
    """Width of the encoder: the `caption_channels` of the network."""
    image_size: int = 224
    """Side of the square to which the LR image is resized, in pixels; a multiple of the encoder's patches."""

    def __post_init__(self) -> None:
        if min(self.channels, self.image_size) < 1:
            raise ValueError("channels and image_size must be at least 1")


class VisionGuidance(EncoderPart, Guidance):
    """Guidance by the last hidden states of a vision tower for the patches of an image, made square."""

    config_class: ClassVar[type[VisionGuidanceConfig]] = VisionGuidanceConfig
    config: VisionGuidanceConfig
    folder_fields = ("image_encoder",)
    model_types: ClassVar[tuple[str, ...]]
    """The `model_type` in the configs of encoders of this kind."""
    kind: GuidanceKind

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Return tokens for LR images (B, 3, h, w) in [-1, 1], one per patch. The tags are ignored."""
        images = self.pixels(lr.to(self.device))
        keys = [blake2b(image.cpu().numpy().tobytes()).digest() for image in images]
        named = dict(zip(keys, images, strict=True))
        made = self.remembered(
            keys, lambda missing: self._encode(torch.stack([named[key] for key in missing]))
        )
        return GuidanceTokens(torch.stack(made))

    def pixels(self, lr: Tensor) -> Tensor:
        """Return what the tower sees of LR images: normalised squares (B, 3, S, S), float32."""
        return normalised_square(lr, self.config.image_size, _TOWERS[self._tower[0]][1])

    def _encode(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, S, S) -> (B, L, C)."""
        kind, patch_size = self._tower
        options = {"interpolate_pos_encoding": True} if kind == "clip" else {}
        with self.encoder() as encoder:
            states: Tensor = encoder(pixels.to(self.encoder_dtype), **options).last_hidden_state
        # the class token and registers come first
        return states[:, -((pixels.shape[-1] // patch_size) ** 2) :]

    @cached_property
    def _tower(self) -> tuple[str, int]:
        """The kind of its vision tower, and the side of its patches.

        Raises CheckpointError for another kind, or if the patches do not divide `image_size`.
        """
        folder, size = self.folder("image_encoder"), self.config.image_size
        config = load_config(folder)
        name = str(config.get("model_type"))
        kind = name.removesuffix("_vision_model")
        if kind not in self.model_types:
            raise CheckpointError(f"{folder}: holds a {name}; one of {', '.join(self.model_types)} is needed")
        patches = config.get("vision_config", config).get("patch_size", _PATCH_SIZES.get(kind, 16))
        if size % patches:
            raise CheckpointError(f"{folder}: image_size {size} is not a multiple of its patches, {patches}")
        return kind, int(patches)

    def read_encoder(self, dtype: torch.dtype) -> nn.Module:
        """Load the vision tower. Raises CheckpointError if it is missing, or of another kind or width."""
        folder, (class_name, _) = self.folder("image_encoder"), _TOWERS[self._tower[0]]
        return read_network("the image encoder", folder, class_name, dtype, self.channels)


class CLIPGuidance(VisionGuidance):
    """Guidance by the vision tower of CLIP, which was trained with texts."""

    kind: GuidanceKind = "clip"
    model_types = ("clip",)


class DINOGuidance(VisionGuidance):
    """Guidance by a vision tower trained on images alone: DINOv2, with or without registers, or DINOv3."""

    kind: GuidanceKind = "dino"
    model_types = ("dinov2", "dinov2_with_registers", "dinov3_vit")
