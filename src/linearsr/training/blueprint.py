"""The parts of runs as shapes without memory, to check and size up a plan before anything is read or trained."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from linearsr.flow.experts import SNRExperts, read_layout
from linearsr.flow.partition import Partition
from linearsr.guidance.base import Guidance
from linearsr.guidance.encoders import EncoderPart
from linearsr.model_folder import CODECS, GUIDANCES
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import config_from_sana
from linearsr.runtime.checkpoints import CONFIG_NAME, HUB_ID, CheckpointError, class_in, load_config
from linearsr.runtime.files import prefixed
from linearsr.training.parts import Kinds, Parts, PartSettings
from linearsr.training.section import ConfigError


class Blueprint(Parts):
    """Builds parts on the meta device, which has shapes and no memory; nothing is downloaded.

    A folder that does not exist may be what an added run will write. Raises ConfigError, one line that names the key,
    for any other.
    """

    def __init__(self) -> None:
        self._runs: dict[Path, Callable[[Parts], Mapping[str, Any]]] = {}

    def add(self, run_dir: Path, shapes: Callable[[Parts], Mapping[str, Any]]) -> None:
        """Add a run that comes before those that are looked at from now on; `shapes` gives what it will write."""
        self._runs[run_dir] = cache(shapes)

    def read(self, key: str, folder: Path, kinds: Kinds, what: str = "") -> Any:
        if folder.is_dir():
            with prefixed(f"{key}: ", ConfigError, CheckpointError):
                return _built(folder, kinds, what)
        run_dir = self._to_come(folder)
        if run_dir is None:
            if key != "stage.sana":  # whose own folder was looked for before
                _check_there(key, str(folder), from_hub=kinds is CODECS or kinds is DeepCompressionCodec)
            return _autoencoder({})
        with torch.device("meta"):
            made = self._runs[run_dir](self)
        if folder.name not in made:
            raise ConfigError(f"{key}: {folder}: that run writes {', '.join(made)}")
        return copy.deepcopy(made[folder.name])

    def _to_come(self, folder: Path) -> Path | None:
        return next((run_dir for run_dir in self._runs if run_dir in folder.parents), None)

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
