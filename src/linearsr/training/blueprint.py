"""Parts as shapes without weights, to check what runs will do before anything is trained."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linearsr.flow.experts import SNRExperts
from linearsr.guidance.base import Guidance
from linearsr.guidance.registry import GUIDANCES
from linearsr.models.codec import CODECS, Codec, DeepCompressionCodec
from linearsr.models.lr_stem import LRCondition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import CONFIG_NAME, CheckpointError, class_in, load_config
from linearsr.training.config import Stage, TrainConfig
from linearsr.training.objective import Computed, Objective, Part
from linearsr.training.parts import Kinds, Parts, PartSettings
from linearsr.training.section import ConfigError


class Blueprint(Parts):
    """Builds parts on the meta device, which has shapes and no memory; nothing is downloaded.

    Raises ConfigError, one line that names the key, where a folder does not hold such a part.

    Args:
        configs: of the runs: a folder that is not there yet may be one that they still write.
    """

    def __init__(self, configs: Iterable[TrainConfig]) -> None:
        self._stages = {config.run_dir: config.stage for config in configs}
        self._made: dict[int, Mapping[str, Part]] = {}

    def objective(self, stage: Stage) -> Objective:
        """The objective of a stage, of which only shapes are known."""
        assert not isinstance(stage, Computed)
        with torch.device("meta"):
            return stage.objective(self)

    def read(
        self, key: str, folder: Path, kinds: Kinds, what: str = "", dtype: torch.dtype | None = None
    ) -> Any:
        if folder.is_dir():
            try:
                return _built(folder, kinds, what)
            except CheckpointError as error:
                raise ConfigError(f"{key}: {error}") from None
        stage = next((stage for run_dir, stage in self._stages.items() if run_dir in folder.parents), None)
        if stage is None:  # a hub id, which only codecs have
            return _autoencoder({}) if kinds is DeepCompressionCodec else UnknownCodec()
        parts = self.parts_of(stage)
        if folder.name not in parts:
            raise ConfigError(f"{key}: {folder}: that run writes {', '.join(parts)}")
        return copy.deepcopy(parts[folder.name])

    def parts_of(self, stage: Stage) -> Mapping[str, Part]:
        """What a run will write."""
        if id(stage) not in self._made:
            with torch.device("meta"):
                if isinstance(stage, Computed):
                    self._made[id(stage)] = stage.shapes(self)
                else:
                    objective = self.objective(stage)
                    self._made[id(stage)] = objective.parts(objective.network.state_dict())
        return self._made[id(stage)]

    def codec(self, stage: PartSettings) -> Codec:
        """As of `Parts`; what only the hub knows is an `UnknownCodec` that fits stem and network."""
        if stage.codec is None and stage.sana is not None:
            folder = Path(stage.sana) / "vae"
            return _autoencoder({}) if not folder.is_dir() else self.read("stage.sana", folder, CODECS)
        codec = super().codec(stage)
        if isinstance(codec, UnknownCodec):
            stem = self.stem(stage)
            codec.compression = 32 if stem is None else stem.config.scale * stem.multiple_of
            codec.latent_channels = self.transformer(stage).config.in_channels
        return codec

    def _from_sana(self, stage: PartSettings, wanted: TransformerConfig) -> LinearSRTransformer:
        """Taken to be of its preset's size, and to fit its codec."""
        if stage.codec is not None:
            return LinearSRTransformer(wanted)
        channels = self.codec(stage).latent_channels
        return LinearSRTransformer(replace(wanted, in_channels=channels, out_channels=channels))

    def guidance(self, folder: Path) -> Guidance:
        part: Guidance = self.read("stage.guidance.part", folder, GUIDANCES, "guidance")
        return part

    def experts(self, folder: Path) -> SNRExperts | None:
        return None


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


def _built(folder: Path, kinds: Kinds, what: str) -> Any:
    """The part in a folder, on the meta device, from its config alone."""
    kind, raw = (kinds, load_config(folder)) if isinstance(kinds, type) else class_in(folder, kinds, what)
    if kind is DeepCompressionCodec:
        return _autoencoder({key: value for key, value in raw.items() if not key.startswith("_")})
    return kind(kind.parse_config(raw, folder / CONFIG_NAME))


def _autoencoder(settings: Mapping[str, Any]) -> DeepCompressionCodec:
    from diffusers import AutoencoderDC

    return DeepCompressionCodec(AutoencoderDC(**settings))
