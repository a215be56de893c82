"""The parts of runs as shapes without memory, to check and size up a plan before anything is read or trained."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from linearsr.flow.experts import SNRExperts, read_layout
from linearsr.flow.partition import Partition
from linearsr.guidance.base import Guidance
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.registry import GUIDANCES
from linearsr.models.codec import CODECS, Codec, DeepCompressionCodec
from linearsr.models.lr_stem import LRCondition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import config_from_sana
from linearsr.runtime.checkpoints import CONFIG_NAME, HUB_ID, CheckpointError, class_in, load_config
from linearsr.runtime.files import prefixed
from linearsr.training.parts import Kinds, Parts, PartSettings
from linearsr.training.section import ConfigError


class Shaped(Protocol):
    """Settings of a stage, as far as its parts are asked for."""

    def shapes(self, parts: Parts) -> Mapping[str, Any]:
        """What it will write, by folder name."""


class Blueprint(Parts):
    """Builds parts on the meta device, which has shapes and no memory; nothing is downloaded.

    What is not there yet may be what one of the runs that were added still writes. Raises ConfigError, one line that
    names the key, where a folder does not hold, and will not hold, such a part.
    """

    def __init__(self) -> None:
        self._stages: dict[Path, Shaped] = {}
        self._made: dict[Path, Mapping[str, Any]] = {}

    def add(self, run_dir: Path, stage: Shaped) -> None:
        """A run that comes before those that are looked at from now on."""
        self._stages[run_dir] = stage

    def read(
        self, key: str, folder: Path, kinds: Kinds, what: str = "", dtype: torch.dtype | None = None
    ) -> Any:
        if folder.is_dir():
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                return _built(folder, kinds, what)
        run_dir = self._to_come(folder)
        if run_dir is None:
            from_hub = kinds in (CODECS, DeepCompressionCodec)
            _check_there(key, str(folder), from_hub)
            return UnknownCodec() if kinds is CODECS else _autoencoder({})
        if run_dir not in self._made:
            with torch.device("meta"):
                self._made[run_dir] = self._stages[run_dir].shapes(self)
        if folder.name not in self._made[run_dir]:
            raise ConfigError(f"{key}: {folder}: that run writes {', '.join(self._made[run_dir])}")
        return copy.deepcopy(self._made[run_dir][folder.name])

    def _to_come(self, folder: Path) -> Path | None:
        return next((run_dir for run_dir in self._stages if run_dir in folder.parents), None)

    def codec(self, stage: PartSettings) -> Codec:
        """As of `Parts`; what only the hub knows is an `UnknownCodec` that fits stem and network."""
        codec = super().codec(stage)
        if isinstance(codec, UnknownCodec):
            stem = self.stem(stage)
            codec.compression = 32 if stem is None else stem.config.scale * stem.multiple_of
            codec.latent_channels = self.transformer(stage).config.in_channels
        return codec

    def _sana_codec(self, name: str) -> Codec:
        folder = _part_of_sana(name, "vae")
        return self.read("stage.sana", folder, CODECS) if folder.is_dir() else _autoencoder({})

    def _from_sana(self, stage: PartSettings, sana: str, channels: int | None) -> LinearSRTransformer:
        """That on the hub is taken to be of its preset's size, and to fit its codec."""
        wanted, folder = stage.wanted, _part_of_sana(sana, "transformer")
        if folder.is_dir():
            own = load_config(folder), wanted.lr_channels, wanted.num_null_tokens
            return LinearSRTransformer(config_from_sana(*own, folder, channels))
        wanted = replace(wanted, caption_channels=channels or wanted.caption_channels)
        if stage.codec is None:
            latent = self.codec(stage).latent_channels
            wanted = replace(wanted, in_channels=latent, out_channels=latent)
        return LinearSRTransformer(wanted)

    def guidance(self, folder: Path) -> Guidance:
        part: Guidance = self.read("stage.guidance.part", folder, GUIDANCES, "guidance")
        if isinstance(part, EncoderPart):
            part.model_folder = folder.absolute().parent
        return part

    def experts(self, key: str, folder: Path) -> SNRExperts:
        partition, folders = Partition(()), [folder]
        if self._to_come(folder) is None:
            _check_there(key, str(folder))
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                partition, folders = read_layout(folder, LinearSRTransformer)
        return SNRExperts(partition, [self.read(key, path, LinearSRTransformer) for path in folders])


class UnknownCodec(nn.Module):
    """Stands for a codec of which only the hub knows the shape."""

    compression = 32
    latent_channels = 32

    def encode(self, image: Tensor, condition: LRCondition) -> Tensor:
        """An empty latent."""
        sides = (side // self.compression for side in image.shape[-2:])
        return image.new_empty(len(image), self.latent_channels, *sides)

    def decode(self, latent: Tensor, condition: LRCondition) -> Tensor:
        """An empty image."""
        return latent.new_empty(len(latent), 3, *(side * self.compression for side in latent.shape[-2:]))


def _part_of_sana(name: str, part: str) -> Path:
    """Its folder, which is only missing if all of the model is on the hub."""
    _check_there("stage.sana", name, from_hub=True)
    folder = Path(name, part)
    if Path(name).is_dir() and not folder.is_dir():
        raise ConfigError(
            f"stage.sana: {name} has no folder {part}: put that of a SANA in diffusers format there"
        )
    return folder


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
    from diffusers import AutoencoderDC

    return DeepCompressionCodec(AutoencoderDC(**settings))
