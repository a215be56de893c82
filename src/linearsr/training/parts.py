"""The parts that a stage starts from or keeps frozen, read with their weights, and what must fit what."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from linearsr.flow.experts import SNRExperts
from linearsr.guidance.base import Guidance
from linearsr.model_folder import CODECS, STEMS, load_guidance
from linearsr.models.codec import Codec, ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import LRStem, PredictiveStem
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS, TransformerConfig
from linearsr.runtime.checkpoints import class_in, resolve_folder
from linearsr.runtime.files import prefixed
from linearsr.training.section import ConfigError, Section, require

Kinds = Mapping[str, type[Any]] | type[Any]
"""By the names that configs use, or the only one."""
_SANA_SIZES = ("num_attention_heads", "num_layers")


class PartSettings(Section):
    """Which stem, codec and transformer a stage works with."""

    stem: Path | None = None
    """Folder of a trained stem, kept frozen; None: a `StridedStem` is trained along with the network."""
    codec: Path | None = None
    """Folder of a codec, kept frozen; None: that of `sana`, else the residual codec, which needs a predictive stem."""
    preset: str = "default"
    network: dict[str, Any] = Field({})
    """Fields of `TransformerConfig` that differ from the preset."""
    init: Path | None = None
    """Start from this transformer folder."""
    detail_blocks: int = Field(0, ge=0)
    """Give the network of `init` a new way out, a `DetailHead` of so many blocks; 0: leave it."""
    sana: str | None = None
    """SANA model (folder or hub id, `diffusers` format): the codec, and the start if no `init`. It has its own sizes:
    beside it `network` sets `lr_channels` and `num_null_tokens`; a `preset` of another size is refused."""

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
        return name

    @property
    def codec_key(self) -> str:
        """The setting that names the codec."""
        return "stage.sana" if self.codec is None and self.sana is not None else "stage.codec"

    @property
    def wanted(self) -> TransformerConfig:
        """The settings of a new network; of one that starts from SANA, those that SANA does not have."""
        own_sizes = self.sana is not None and "preset" not in self.model_fields_set
        return replace(PRESETS["600m" if own_sizes else self.preset], **self.network)


class Parts:
    """Reads parts with their weights. Raises CheckpointError where a folder does not hold such a part."""

    def read(self, key: str, folder: Path, kinds: Kinds, what: str = "") -> Any:
        """The part in a folder or hub id, in float32, one of `kinds` (`what` in messages); `key` is the setting."""
        path = resolve_folder(folder)
        kind = kinds if isinstance(kinds, type) else class_in(path, kinds, what)[0]
        return kind.from_pretrained(path, torch.float32)

    def stem(self, stage: PartSettings) -> LRStem | None:
        """The frozen LR stem; None: it is trained along."""
        return None if stage.stem is None else self.read("stage.stem", stage.stem, STEMS, "a stem")

    def codec(self, stage: PartSettings) -> Codec:
        """The codec in whose latents a stage works."""
        codec: Codec
        if stage.codec is not None:
            codec = self.read("stage.codec", stage.codec, CODECS, "a codec")
        elif stage.sana is not None:
            require("diffusers", "stage.sana")
            codec = self.read("stage.sana", self.sana_part(stage.sana, "vae"), CODECS, "a codec")
        else:
            codec = ResidualCodec(ResidualCodecConfig())
        return codec

    def transformer(self, stage: PartSettings, caption_channels: int | None = None) -> LinearSRTransformer:
        """The network with its first weights; SANA's can be given guidance tokens of other `caption_channels`."""
        if stage.init is not None:
            network: LinearSRTransformer = self.read("stage.init", stage.init, LinearSRTransformer)
            with prefixed("stage.detail_blocks: ", ConfigError):
                return network.with_detail(stage.detail_blocks) if stage.detail_blocks else network
        if stage.sana is None:
            return LinearSRTransformer(stage.wanted)
        network = self.from_sana(stage, self.sana_part(stage.sana, "transformer"), caption_channels)
        for key in _SANA_SIZES if "preset" in stage.model_fields_set else ():
            found, expected = getattr(network.config, key), getattr(stage.wanted, key)
            if found != expected:
                raise ConfigError(f"stage.sana: {key} is {found}, preset {stage.preset} has {expected}")
        return network

    def sana_part(self, name: str, part: str) -> Path:
        return resolve_folder(name, ["transformer", "vae"]) / part

    def from_sana(self, stage: PartSettings, folder: Path, channels: int | None) -> LinearSRTransformer:
        added = stage.wanted.lr_channels, stage.wanted.num_null_tokens
        return LinearSRTransformer.from_sana(folder, *added, torch.float32, caption_channels=channels)

    def guidance(self, folder: Path) -> Guidance:
        return load_guidance(folder, torch.float32)

    def experts(self, key: str, folder: Path) -> SNRExperts:
        """Frozen networks that take steps beside the one that is trained; `key` is the setting that names them."""
        experts = SNRExperts.from_pretrained(folder, expert_class=LinearSRTransformer, dtype=torch.float32)
        return experts.requires_grad_(False)


FROM_DISK = Parts()
"""It has no state: one serves all."""


def check_grid(stage: PartSettings, stem: LRStem, codec: Codec) -> None:
    """Stem and codec must have one grid, and a codec of residuals needs something that these are of.

    Raises:
        ConfigError: as one line that names the key.
    """
    if isinstance(codec, ResidualCodec) and not isinstance(stem, PredictiveStem):
        raise ConfigError(f"stage.stem: {stage.stem} predicts no image, which the residual codec needs")
    apart = stem.config.scale * stem.multiple_of
    if apart != codec.compression:
        raise ConfigError(
            f"stage.stem: its features lie {apart} HR pixels apart, the codec's latents {codec.compression}: "
            "they need one grid"
        )


def check_channels(stage: PartSettings, network: TransformerConfig, stem: LRStem, codec: Codec) -> None:
    """The network must take what its stem and its codec give. Raises as `check_grid`."""
    given = {
        "in_channels": ("codec", codec.latent_channels),
        "out_channels": ("codec", codec.latent_channels),
        "lr_channels": ("stem", stem.config.channels * getattr(stem.config, "patch", 1) ** 2),
    }
    for key, (giver, channels) in given.items():
        if getattr(network, key) != channels:
            place = "stage.network" if key == "lr_channels" or stage.sana is None else "stage.sana"
            place = place if stage.init is None else "stage.init"
            raise ConfigError(
                f"{place}: {key} is {getattr(network, key)}, but the {giver} gives {channels} channels"
            )
