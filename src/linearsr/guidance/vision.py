"""Features of the LR image as guidance: the patches of CLIP, SigLIP 2, DINOv2 or DINOv3.

Shapes: B images, h w LR size, L tokens of C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar

import torch
from torch import Tensor, nn

from linearsr.guidance.base import GuidanceKind, GuidanceTokens
from linearsr.guidance.encoders import EncoderPart, check_width, read_network
from linearsr.guidance.vision_towers import Tower, tower_in
from linearsr.guidance.vocabulary import Understood
from linearsr.runtime.checkpoints import CheckpointError


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


class VisionGuidance(EncoderPart):
    """The last hidden states of a vision tower at its patches, without its class and register tokens.

    The whole image is looked at, resized to a square: a crop would leave out what is at its borders.
    """

    config_class: ClassVar[type[VisionGuidanceConfig]] = VisionGuidanceConfig
    config: VisionGuidanceConfig
    folder_fields = ("image_encoder",)
    model_types: ClassVar[tuple[str, ...]]
    """What encoders of this kind call themselves in their config."""
    kind: GuidanceKind
    uses_tags: bool = False

    @property
    def channels(self) -> int:
        """Channels of a token."""
        return self.config.channels

    def understand(self, words: Sequence[str]) -> Understood:
        """No word is understood: this guidance looks at the picture."""
        return Understood([], list(words))

    def encode(self, lr: Tensor, tags: Sequence[Sequence[str]]) -> GuidanceTokens:
        """Tokens for LR images (B, 3, h, w) in [-1, 1], one for each patch. The tags are not looked at."""
        return GuidanceTokens(torch.stack([self._patches(image) for image in lr.to(self.device)]))

    def _patches(self, image: Tensor) -> Tensor:
        """(3, h, w) -> (L, C)"""
        pixels = self.tower.pixels(image[None], self.config.image_size)
        digest = blake2b(pixels.cpu().numpy().tobytes()).digest()
        return self.recent.get((digest, self.device, self.encoder_dtype), lambda: self._encode(pixels))

    def _encode(self, pixels: Tensor) -> Tensor:
        with self.encoder() as encoder:
            inputs = self.tower.inputs(pixels.to(self.encoder_dtype))
            states: Tensor = encoder(**inputs).last_hidden_state[0]
        # the class token and registers come first
        return states[-self.tower.count_patches(self.config.image_size) :]

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
        encoder: nn.Module = read_network("the image encoder", folder, tower.class_name, dtype)
        check_width(encoder, self.channels, folder)
        return encoder


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
