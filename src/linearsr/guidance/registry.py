"""The parts of a model that guide it, by the names in its folders."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from linearsr.flow.experts import Residency
from linearsr.guidance.base import Guidance, Tagger
from linearsr.guidance.encoders import EncoderPart, encoder_folder
from linearsr.guidance.vocabulary import read_tag_list
from linearsr.runtime.checkpoints import CONFIG_NAME, class_in, load_config, resolve_folder


class _Kinds(Mapping[str, type[Any]]):
    """Classes by name, each imported when it is looked up; given as CLASS=MODULE."""

    def __init__(self, **modules: str) -> None:
        self._modules = modules

    def __getitem__(self, name: str) -> type[Any]:
        kind: type[Any] = getattr(import_module(f"linearsr.guidance.{self._modules[name]}"), name)
        return kind

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


GUIDANCES = _Kinds(
    TagGuidance="tags",
    TextGuidance="text",
    CLIPGuidance="vision",
    DINOGuidance="vision",
    FeatureGuidance="features",
)
TAGGERS = _Kinds(OwnTagger="own_tagger", ZeroShotTagger="zero_shot", RAMTagger="ram")

_RAM_VARIANTS = {"ram": "ram", "ram++": "ram_plus"}


def _load(
    kinds: Mapping[str, type[Any]],
    what: str,
    folder: str | PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    residency: Residency = "all",
) -> Any:
    """A part of any of these kinds from its folder, its encoders waiting as `residency` says (see `WaitingEncoder`).

    Raises:
        CheckpointError: none of these kinds, or a config or weights that are missing or damaged.
    """
    path = resolve_folder(folder)
    kind, _ = class_in(path, kinds, what)
    part = kind.from_pretrained(path, dtype, device)
    if isinstance(part, EncoderPart):
        part.waiting.residency = residency
    return part


load_guidance: Callable[..., Guidance] = partial(_load, GUIDANCES, "guidance")
load_tagger: Callable[..., Tagger] = partial(_load, TAGGERS, "a tagger")


def describe(part: str, folder: Path) -> dict[str, Any]:
    """What a folder's "guidance" or "tagger" is and expects, from its config alone.

    Raises:
        CheckpointError: as `load_guidance`.
    """
    guides = part == "guidance"
    kind, raw = class_in(folder, GUIDANCES if guides else TAGGERS, "guidance" if guides else "a tagger")
    config = kind.parse_config(raw, folder / CONFIG_NAME)
    told: dict[str, Any] = (
        {"kind": kind.kind, "token_channels": config.channels} if guides else {"class": kind.__name__}
    )
    if hasattr(config, "vocabulary"):
        told["known_tags"] = len(config.vocabulary)
    if issubclass(kind, EncoderPart):
        told["encoders"] = {field: getattr(config, field) for field in kind.folder_fields}
    return told


def named_tagger(name: str, vocabulary: Path | None = None, weights: str | None = None) -> Tagger:
    """The tagger that a user means; its encoders are read when it is first used.

    Args:
        name: "ram" or "ram++"; the folder of a tagger; or folder or hub id of a SigLIP or SigLIP 2.
        vocabulary: file with one tag a line, for SigLIP.
        weights: folder or hub id of RAM's weights.

    Raises:
        CheckpointError: no such folder.
        ValueError: a vocabulary or weights where none are used, or none where they are needed.
    """
    if name in _RAM_VARIANTS:
        if weights is None or vocabulary is not None:
            raise ValueError(f"{name} needs the folder of its weights, and no vocabulary: it has its own")
        from linearsr.guidance.ram import RAMTagger, RAMTaggerConfig

        return RAMTagger(RAMTaggerConfig(weights, _RAM_VARIANTS[name]))
    if weights is not None:
        raise ValueError(f"weights are for {' and '.join(_RAM_VARIANTS)}, not for {name}")
    folder = encoder_folder(name)
    if load_config(folder).get("_class_name") in TAGGERS:
        if vocabulary is not None:
            raise ValueError(f"{name} has its own vocabulary: leave out the file")
        return load_tagger(folder)
    if vocabulary is None:
        raise ValueError(f"{name} needs a vocabulary: name a file with one tag a line")
    from linearsr.guidance.zero_shot import ZeroShotTagger, ZeroShotTaggerConfig

    return ZeroShotTagger(ZeroShotTaggerConfig(str(folder), read_tag_list(vocabulary)))
