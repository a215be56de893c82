"""The parts of a model that guide it, by the names in its folders."""

from os import PathLike
from typing import Any, cast

import torch

from linearsr.checkpoints import PretrainedModule, class_in, resolve_folder
from linearsr.flow.experts import Residency
from linearsr.guidance.base import Guidance, Tagger
from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.ram import RAMTagger
from linearsr.guidance.tags import TagGuidance
from linearsr.guidance.text import TextGuidance
from linearsr.guidance.vision import CLIPGuidance, DINOGuidance
from linearsr.guidance.zero_shot import ZeroShotTagger

GUIDANCES: dict[str, type[PretrainedModule]] = {
    kind.__name__: kind for kind in (TagGuidance, TextGuidance, CLIPGuidance, DINOGuidance)
}
TAGGERS: dict[str, type[PretrainedModule]] = {kind.__name__: kind for kind in (ZeroShotTagger, RAMTagger)}


def load_guidance(
    folder: str | PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    residency: Residency = "all",
) -> Guidance:
    """The guidance of any kind in `folder`, its encoders waiting as `residency` says (see `WaitingEncoder`).

    Raises:
        CheckpointError: none of `GUIDANCES`, or a config or weights that are missing or damaged.
    """
    return cast(Guidance, _load(folder, GUIDANCES, "guidance", dtype, device, residency))


def load_tagger(
    folder: str | PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    residency: Residency = "all",
) -> Tagger:
    """The tagger of any kind in `folder`; as `load_guidance`, but for one of `TAGGERS`."""
    return cast(Tagger, _load(folder, TAGGERS, "a tagger", dtype, device, residency))


def _load(
    folder: str | PathLike[str],
    kinds: dict[str, type[PretrainedModule]],
    what: str,
    dtype: torch.dtype | None,
    device: str | torch.device,
    residency: Residency,
) -> Any:
    path = resolve_folder(folder)
    kind, _ = class_in(path, kinds, what)
    part = kind.from_pretrained(path, dtype, device)
    if isinstance(part, EncoderPart):
        part.waiting.residency = residency
    return part
