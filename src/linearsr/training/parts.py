"""The parts that a stage starts from or keeps frozen: with their weights, or as shapes without memory for a plan."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from linearsr.flow.experts import SNRExperts, read_layout
from linearsr.flow.partition import Partition
from linearsr.guidance.base import Guidance
from linearsr.guidance.encoders import EncoderPart
from linearsr.model_folder import CODECS, GUIDANCES
from linearsr.models.codec import Codec, ResidualCodec, ResidualCodecConfig
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.lr_stem import LRStem, PredictiveStem
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS, TransformerConfig, config_from_sana
from linearsr.runtime.checkpoints import (
    CONFIG_NAME,
    HUB_ID,
    CheckpointError,
    class_in,
    load_config,
    resolve_folder,
)
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

    def codec(self, stage: PartSettings) -> Codec:
        """The codec in whose latents a stage works."""
        folder = stage.codec
        if folder is None and stage.sana is not None:
            require("diffusers", "stage.sana")
            folder = self.sana_part(stage.sana, "vae")
        if folder is None:
            return ResidualCodec(ResidualCodecConfig())
        codec: Codec = self.read(stage.codec_key, folder, CODECS, "a codec")
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
        part: Guidance = self.read("stage.guidance.part", folder, GUIDANCES, "guidance")
        return part

    def experts(self, key: str, folder: Path) -> SNRExperts:
        """The networks in a folder; `key` is the setting that names it."""
        return SNRExperts.from_pretrained(folder, expert_class=LinearSRTransformer, dtype=torch.float32)


FROM_DISK = Parts()


class Blueprint(Parts):
    """Builds parts on the meta device, which has shapes and no memory; nothing is downloaded.

    A folder that does not exist may be what a run `to_come` will write: its parts by their names. Raises ConfigError,
    one line that names the key, for any other.
    """

    def __init__(self) -> None:
        self.to_come: dict[Path, Mapping[str, Any]] = {}

    def read(self, key: str, folder: Path, kinds: Kinds, what: str = "") -> Any:
        if folder.is_dir():
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                return _built(folder, kinds, what)
        made = self._made(folder)
        if made is None:
            if key != "stage.sana":  # whose own folder was looked for before
                _check_there(key, str(folder), from_hub=kinds is CODECS or kinds is DeepCompressionCodec)
            return _autoencoder({})
        if folder.name not in made:
            raise ConfigError(f"{key}: {folder}: that run writes {', '.join(made)}")
        return copy.deepcopy(made[folder.name])

    def _made(self, folder: Path) -> Mapping[str, Any] | None:
        return next((made for run_dir, made in self.to_come.items() if run_dir in folder.parents), None)

    def sana_part(self, name: str, part: str) -> Path:
        """Its folder, which is only missing if all of the model is on the hub."""
        _check_there("stage.sana", name, from_hub=True)
        if Path(name).is_dir() and not Path(name, part).is_dir():
            raise ConfigError(
                f"stage.sana: {name} has no folder {part}: put that of a SANA in diffusers format there"
            )
        return Path(name, part)

    def from_sana(self, stage: PartSettings, folder: Path, channels: int | None) -> LinearSRTransformer:
        """One on the hub is taken to be of its preset's size."""
        wanted = stage.wanted
        if folder.is_dir():
            own = load_config(folder), wanted.lr_channels, wanted.num_null_tokens
            return LinearSRTransformer(config_from_sana(*own, folder, channels))
        return LinearSRTransformer(replace(wanted, caption_channels=channels or wanted.caption_channels))

    def guidance(self, folder: Path) -> Guidance:
        part = super().guidance(folder)
        if isinstance(part, EncoderPart):
            part.model_folder = folder.absolute().parent
        return part

    def experts(self, key: str, folder: Path) -> SNRExperts:
        partition, folders = Partition(()), [folder]
        if self._made(folder) is None:
            _check_there(key, str(folder))
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                partition, folders = read_layout(folder, LinearSRTransformer)
        return SNRExperts(partition, [self.read(key, path, LinearSRTransformer) for path in folders])


def _check_there(key: str, name: str, from_hub: bool = False) -> None:
    if not Path(name).is_dir() and not (from_hub and HUB_ID.fullmatch(name)):
        hint = "a folder, or a hub id as owner/name" if from_hub else "one that was trained before"
        raise ConfigError(f"{key}: {name} is no folder: give {hint}")


def _built(folder: Path, kinds: Kinds, what: str) -> Any:
    """The part in a folder, on the meta device, from its config alone."""
    kind, raw = (kinds, load_config(folder)) if isinstance(kinds, type) else class_in(folder, kinds, what)
    if kind is DeepCompressionCodec:
        return _autoencoder({key: value for key, value in raw.items() if not key.startswith("_")})
    return kind(kind.parse_config(raw, folder / CONFIG_NAME))


def _autoencoder(settings: Mapping[str, Any]) -> DeepCompressionCodec:
    """An autoencoder of these settings; without any it is that of SANA."""
    from diffusers import AutoencoderDC

    return DeepCompressionCodec(AutoencoderDC(**settings))


def check_parts(stage: PartSettings, network: TransformerConfig, stem: LRStem, codec: Codec) -> None:
    """The network must take what stem and codec give, on one grid; a residual codec needs what its latents are of.

    Raises ConfigError: one line that names the key.
    """
    if isinstance(codec, ResidualCodec) and not isinstance(stem, PredictiveStem):
        found = f"{stage.stem} predicts no image" if stage.stem else "none is given"
        raise ConfigError(f"stage.stem: {found}, and the residual codec needs a predictive stem")
    apart = stem.config.scale * stem.multiple_of
    if apart != codec.compression:
        raise ConfigError(
            f"stage.stem: its features lie {apart} HR pixels apart, the codec's latents {codec.compression}: "
            "they need one grid"
        )
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
