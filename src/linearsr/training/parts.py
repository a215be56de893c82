"""The parts that a stage starts from or keeps frozen: read with their weights, or built from configs alone."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linearsr.flow.experts import SNRExperts
from linearsr.guidance.base import Guidance
from linearsr.guidance.registry import GUIDANCES, load_guidance
from linearsr.models.codec import CODECS, Codec, DeepCompressionCodec, ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import STEMS, LRCondition, LRStem
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import CONFIG_NAME, CheckpointError, class_in, load_config, resolve_folder
from linearsr.training.section import ConfigError

if TYPE_CHECKING:
    from linearsr.training.config import TrainConfig
    from linearsr.training.flow import FlowStage
    from linearsr.training.objective import Objective

Kinds = Mapping[str, type[Any]] | type[Any]
"""Classes by the names that configs use, or the only one."""
_SANA_SIZES = ("num_attention_heads", "num_layers")


class Parts:
    """Reads parts with their weights. Raises CheckpointError where a folder does not hold such a part."""

    def read(
        self, key: str, folder: Path, kinds: Kinds, what: str = "", dtype: torch.dtype | None = None
    ) -> Any:
        """The part in a folder (or hub id).

        Args:
            key: of the config that names it.
            folder: where it is.
            kinds: what it may be.
            what: how a message calls one of several kinds.
            dtype: of its floating-point weights; None: as stored.
        """
        path = resolve_folder(folder)
        kind = kinds if isinstance(kinds, type) else class_in(path, kinds, what)[0]
        return kind.from_pretrained(path, dtype)

    def stem(self, stage: "FlowStage") -> LRStem | None:
        """The frozen LR stem, if it is not trained along."""
        return None if stage.stem is None else self.read("stage.stem", stage.stem, STEMS, "a stem")

    def codec(self, stage: "FlowStage") -> Codec:
        """The codec in whose latents a stage works."""
        codec: Codec = ResidualCodec(ResidualCodecConfig())
        if stage.codec is not None:
            codec = self.read("stage.codec", stage.codec, CODECS, "a codec")
        elif stage.sana is not None:
            codec = self.read("stage.sana", _sana_folder(stage.sana) / "vae", CODECS, "a codec")
        return codec

    def transformer(self, stage: "FlowStage") -> LinearSRTransformer:
        """The network with its first weights."""
        wanted = replace(PRESETS[stage.preset], **stage.network)
        if stage.init is not None:
            network: LinearSRTransformer = self.read(
                "stage.init", stage.init, LinearSRTransformer, dtype=torch.float32
            )
            return network.with_detail(stage.detail_blocks) if stage.detail_blocks else network
        return LinearSRTransformer(wanted) if stage.sana is None else self._from_sana(stage, wanted)

    def _from_sana(self, stage: "FlowStage", wanted: TransformerConfig) -> LinearSRTransformer:
        assert stage.sana is not None
        network = LinearSRTransformer.from_sana(
            _sana_folder(stage.sana) / "transformer",
            lr_channels=wanted.lr_channels,
            num_null_tokens=wanted.num_null_tokens,
            dtype=torch.float32,
        )
        for key in _SANA_SIZES:
            found, expected = getattr(network.config, key), getattr(wanted, key)
            if found != expected:
                raise CheckpointError(f"{stage.sana}: {key} is {found}, preset {stage.preset} has {expected}")
        return network

    def guidance(self, folder: Path) -> Guidance:
        """A frozen guidance part."""
        return load_guidance(folder, torch.float32)

    def experts(self, folder: Path) -> SNRExperts | None:
        """Frozen networks that take steps beside the one that is trained."""
        return SNRExperts.from_pretrained(
            folder, expert_class=LinearSRTransformer, dtype=torch.float32
        ).requires_grad_(False)


class Blueprint(Parts):
    """Builds parts on the meta device, which has shapes and no memory; nothing is downloaded.

    Raises ConfigError, one line that names the key, where a folder does not hold such a part.

    Args:
        configs: of the runs: a folder that is not there yet may be one that they still write.
    """

    def __init__(self, configs: Iterable["TrainConfig"]) -> None:
        self._stages = {config.run_dir: config.stage for config in configs}
        self._made: dict[int, Mapping[str, Any]] = {}

    def objective(self, stage: Any) -> "Objective":
        """The objective of a stage, of which only shapes are known."""
        with torch.device("meta"):
            objective: Objective = stage.objective(self)
        return objective

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

    def parts_of(self, stage: Any) -> Mapping[str, Any]:
        """What a run will write."""
        if id(stage) not in self._made:
            with torch.device("meta"):
                if hasattr(stage, "shapes"):
                    made = stage.shapes(self)
                else:
                    objective: Objective = stage.objective(self)
                    made = objective.parts(objective.network.state_dict())
            self._made[id(stage)] = made
        return self._made[id(stage)]

    def codec(self, stage: "FlowStage") -> Codec:
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

    def _from_sana(self, stage: "FlowStage", wanted: TransformerConfig) -> LinearSRTransformer:
        """Taken to be of its preset's size, and to fit its codec."""
        codec = self.codec(stage) if stage.codec is None else None
        if codec is None:
            return LinearSRTransformer(wanted)
        channels = codec.latent_channels
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

    def save_pretrained(self, folder: Any, dtype: torch.dtype | None = None) -> None:
        """There is nothing to write."""


def _sana_folder(name: str) -> Path:
    return resolve_folder(name, ["transformer", "vae"])


def _built(folder: Path, kinds: Kinds, what: str) -> Any:
    """The part in a folder, on the meta device, from its config alone."""
    kind, raw = (kinds, load_config(folder)) if isinstance(kinds, type) else class_in(folder, kinds, what)
    if kind is DeepCompressionCodec:
        return _autoencoder({key: value for key, value in raw.items() if not key.startswith("_")})
    return kind(kind.parse_config(raw, folder / CONFIG_NAME))


def _autoencoder(settings: Mapping[str, Any]) -> DeepCompressionCodec:
    from diffusers import AutoencoderDC

    return DeepCompressionCodec(AutoencoderDC(**settings))
