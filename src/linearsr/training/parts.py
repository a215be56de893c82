"""The parts that a stage starts from or keeps frozen, read with their weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, field_validator

from linearsr.flow.experts import SNRExperts
from linearsr.guidance.base import Guidance
from linearsr.guidance.registry import load_guidance
from linearsr.models.codec import CODECS, Codec, ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import STEMS, LRStem
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.runtime.checkpoints import CheckpointError, class_in, resolve_folder
from linearsr.training.section import Section

Kinds = Mapping[str, type[Any]] | type[Any]
"""Classes by the names that configs use, or the only one."""
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
    """SANA model of the preset's size (folder or hub id, `diffusers` format): the codec, and the start if no `init`."""

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
        return name


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

    def stem(self, stage: PartSettings) -> LRStem | None:
        """The frozen LR stem, if it is not trained along."""
        return None if stage.stem is None else self.read("stage.stem", stage.stem, STEMS, "a stem")

    def codec(self, stage: PartSettings) -> Codec:
        """The codec in whose latents a stage works."""
        codec: Codec = ResidualCodec(ResidualCodecConfig())
        if stage.codec is not None:
            codec = self.read("stage.codec", stage.codec, CODECS, "a codec")
        elif stage.sana is not None:
            codec = self.read("stage.sana", _sana_folder(stage.sana) / "vae", CODECS, "a codec")
        return codec

    def transformer(self, stage: PartSettings) -> LinearSRTransformer:
        """The network with its first weights."""
        wanted = replace(PRESETS[stage.preset], **stage.network)
        if stage.init is not None:
            network: LinearSRTransformer = self.read(
                "stage.init", stage.init, LinearSRTransformer, dtype=torch.float32
            )
            return network.with_detail(stage.detail_blocks) if stage.detail_blocks else network
        return LinearSRTransformer(wanted) if stage.sana is None else self._from_sana(stage, wanted)

    def _from_sana(self, stage: PartSettings, wanted: TransformerConfig) -> LinearSRTransformer:
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


def _sana_folder(name: str) -> Path:
    return resolve_folder(name, ["transformer", "vae"])
