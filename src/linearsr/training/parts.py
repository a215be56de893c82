"""The parts that a stage starts from or keeps frozen: read with their weights, or as shapes to plan a run."""

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
"""The accepted classes of a part, by the names that configs use; or the only accepted class."""
_SANA_SIZES = ("num_attention_heads", "num_layers")


class PartSettings(Section):
    """The stem, codec and transformer that a stage works with."""

    stem: Path | None = None
    """Folder of a trained stem, kept frozen; None: a `StridedStem` is trained jointly with the network."""
    codec: Path | None = None
    """Folder of a codec, kept frozen; None: the codec of `sana`, or else the residual codec, which needs a
    predictive stem."""
    preset: str = "default"
    network: dict[str, Any] = Field({})
    """Fields of `TransformerConfig` that differ from the preset."""
    init: Path | None = None
    """Folder of the transformer to start from."""
    detail_blocks: int = Field(0, ge=0)
    """Blocks of a new `DetailHead` that replaces the output head of `init`; 0: keep the head."""
    sana: str | None = None
    """SANA model (folder or hub id, `diffusers` format): the codec and, without `init`, the start. Its
    sizes hold: `network` may set only `lr_channels` and `num_null_tokens`, `preset` must have its size."""

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
        return name

    @property
    def codec_key(self) -> str:
        """The key of the setting that names the codec."""
        return "stage.sana" if self.codec is None and self.sana is not None else "stage.codec"

    @property
    def wanted(self) -> TransformerConfig:
        """The settings of a new network; SANA's own settings take precedence over them."""
        own_sizes = self.sana is not None and "preset" not in self.model_fields_set
        return replace(PRESETS["600m" if own_sizes else self.preset], **self.network)


class Parts:
    """A reader of parts with weights. Raises CheckpointError: when a folder does not hold the wanted part."""

    def read(self, key: str, folder: Path, kinds: Kinds, what: str = "") -> Any:
        """Read one of `kinds` (`what` in messages) from a folder or hub id as float32; `key` names it."""
        path = resolve_folder(folder)
        kind = kinds if isinstance(kinds, type) else class_in(path, kinds, what)[0]
        return kind.from_pretrained(path, torch.float32)

    def codec(self, stage: PartSettings) -> Codec:
        """Read the codec whose latents a stage works on."""
        folder = stage.codec
        if folder is None and stage.sana is not None:
            require("diffusers", "stage.sana")
            folder = self.sana_part(stage.sana, "vae")
        if folder is None:
            return ResidualCodec(ResidualCodecConfig())
        codec: Codec = self.read(stage.codec_key, folder, CODECS, "a codec")
        return codec

    def transformer(self, stage: PartSettings, caption_channels: int | None = None) -> LinearSRTransformer:
        """Return the network with its initial weights; `caption_channels` replaces SANA's width of tokens."""
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
        """Read the networks in a folder; `key` is the setting that names it."""
        return SNRExperts.from_pretrained(folder, expert_class=LinearSRTransformer, dtype=torch.float32)


FROM_DISK = Parts()


class Blueprint(Parts):
    """A builder of parts on the meta device, with shapes but no memory; nothing is downloaded.

    `to_come` maps the folders of planned runs to the parts that they will write, so these need not exist yet.
    Raises ConfigError: when any other folder is missing; one line that names the key.
    """

    def __init__(self) -> None:
        self.to_come: dict[Path, Mapping[str, Any]] = {}

    def read(self, key: str, folder: Path, kinds: Kinds, what: str = "") -> Any:
        if folder.is_dir():
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                return _built(folder, kinds, what)
        made = self._made(folder)
        if made is None:
            if key != "stage.sana":  # `sana_part` has checked that folder
                _check_there(key, str(folder), from_hub=kinds is CODECS or kinds is DeepCompressionCodec)
            return _autoencoder({})
        if folder.name not in made:
            raise ConfigError(f"{key}: {folder}: that run writes {', '.join(made)}")
        return copy.deepcopy(made[folder.name])

    def _made(self, folder: Path) -> Mapping[str, Any] | None:
        return next((made for run_dir, made in self.to_come.items() if run_dir in folder.parents), None)

    def sana_part(self, name: str, part: str) -> Path:
        """Return the folder of a part of SANA; it is missing only if the whole model is on the hub."""
        _check_there("stage.sana", name, from_hub=True)
        if Path(name).is_dir() and not Path(name, part).is_dir():
            raise ConfigError(
                f"stage.sana: {name} has no folder {part}: put that of a SANA in diffusers format there"
            )
        return Path(name, part)

    def from_sana(self, stage: PartSettings, folder: Path, channels: int | None) -> LinearSRTransformer:
        """Build SANA's network from its config; a model on the hub is assumed to have its preset's size."""
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
        raise ConfigError(f"{key}: {name} is not a folder: give {hint}")


def _built(folder: Path, kinds: Kinds, what: str) -> Any:
    """Build the part in a folder from its config alone."""
    kind, raw = (kinds, load_config(folder)) if isinstance(kinds, type) else class_in(folder, kinds, what)
    if kind is DeepCompressionCodec:
        return _autoencoder({key: value for key, value in raw.items() if not key.startswith("_")})
    return kind(kind.parse_config(raw, folder / CONFIG_NAME))


def _autoencoder(settings: Mapping[str, Any]) -> DeepCompressionCodec:
    """Build an autoencoder with these settings; without any, it is SANA's."""
    from diffusers import AutoencoderDC

    return DeepCompressionCodec(AutoencoderDC(**settings))


def check_parts(stage: PartSettings, network: TransformerConfig, stem: LRStem, codec: Codec) -> None:
    """Check that network, stem and codec agree on channels and grid.

    Raises ConfigError: when they do not, or a residual codec lacks a predictive stem; names the key.
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
