"""A model as a folder: `model_index.json` and one sub-folder per part, laid out as in `diffusers`."""

from collections import UserDict
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.resources import files
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from linearsr._version import __version__
from linearsr.flow import Residency
from linearsr.models.codec import Codec, ResidualCodec
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.checkpoints import (
    CONFIG_NAME,
    CheckpointError,
    class_in,
    load_config,
    load_tensors,
    read_json,
    resolve_folder,
    save_tensors,
    write_json,
)

if TYPE_CHECKING:
    from linearsr.flow.experts import SNRExperts
    from linearsr.guidance.base import Guidance, Tagger
    from linearsr.models.int8 import Ranges
    from linearsr.models.lr_stem import LRStem
    from linearsr.models.transformer import LinearSRTransformer

MODEL_INDEX = "model_index.json"
_INT8_RANGES = "int8_ranges.safetensors"


class _Kinds(UserDict[str, Any]):
    """Classes by name, each imported when it is looked up; given as NAME=MODULE or NAME=MODULE:CLASS."""

    def __getitem__(self, name: str) -> type[Any]:
        module, _, own_name = super().__getitem__(name).partition(":")
        kind: type[Any] = getattr(import_module(f"linearsr.{module}"), own_name or name)
        return kind


STEMS = _Kinds(PredictiveStem="models.lr_stem", StridedStem="models.strided_stem")
CODECS = _Kinds(ResidualCodec="models.codec", AutoencoderDC="models.dc_ae:DeepCompressionCodec")
GUIDANCES = _Kinds(
    TagGuidance="guidance.tags",
    TextGuidance="guidance.text",
    CLIPGuidance="guidance.vision",
    DINOGuidance="guidance.vision",
    FeatureGuidance="guidance.features",
)
TAGGERS = _Kinds(OwnTagger="guidance.own_tagger", RAMTagger="guidance.ram")
PARTS: dict[str, Mapping[str, type[Any]]] = {
    "lr_stem": STEMS,
    "transformer": _Kinds(SNRExperts="flow.experts"),
    "codec": CODECS,
    "guidance": GUIDANCES,
    "tagger": TAGGERS,
    "trunk": _Kinds(RRDBNet="models.rrdb"),
}
"""The known classes of each part, by the name of its folder."""
_OPTIONAL = ("transformer", "guidance", "tagger", "trunk")


class ModelParts(NamedTuple):
    """The parts of a pipeline."""

    lr_stem: "LRStem"
    transformer: "SNRExperts | None"
    codec: Codec
    guidance: "Guidance | None" = None
    tagger: "Tagger | None" = None
    trunk: RRDBNet | None = None


def default_model_folder() -> Path:
    """Return the folder of the default model inside the package."""
    return Path(str(files("linearsr") / "weights" / "default"))


def find_model(model: str | PathLike[str] | None) -> Path:
    """Return the folder of a model: the built-in one for None and "default", else a folder or hub id.

    Raises:
        CheckpointError: there is no such model.
    """
    return default_model_folder() if model in {None, "default"} else resolve_folder(model)


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`. Raises CheckpointError if there is none."""
    if not (folder / MODEL_INDEX).is_file():
        raise CheckpointError(f"{folder}: no {MODEL_INDEX}, so this is not a LinearSR model folder")
    return read_json(folder / MODEL_INDEX)


def part_classes(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    """Return the class name of each part of a model; optional parts only if the model has them.

    Raises:
        CheckpointError: `index` names an unknown class, or none for a part that is needed.
    """
    parts = [part for part in PARTS if part not in _OPTIONAL or index.get(part) is not None]
    return {part: _class_name(index, part, folder) for part in parts}


def model_scale(model: str | PathLike[str]) -> int:
    """Return the scale of a model's own results, HR size over LR size, from its files alone.

    Raises:
        CheckpointError: there is no such model, or this version does not know its parts.
    """
    folder = resolve_folder(model)
    stem = STEMS[part_classes(folder, read_index(folder))["lr_stem"]]
    return int(stem.parse_config(load_config(folder / "lr_stem"), folder / "lr_stem" / CONFIG_NAME).scale)


def listens_to_tags(model: str | PathLike[str] | None) -> bool:
    """Return whether a model (None: the default one) is guided by tags, from its index alone.

    Raises:
        CheckpointError: there is no such model, or this version does not know its parts.
    """
    folder = find_model(model)
    guidance = part_classes(folder, read_index(folder)).get("guidance")
    return guidance is not None and bool(GUIDANCES[guidance].uses_tags)


def _load(
    kinds: Mapping[str, type[Any]],
    what: str,
    folder: str | PathLike[str],
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    residency: Residency = "all",
) -> Any:
    """Load a part of one of `kinds` from its folder.

    `residency` says where its encoders are kept between uses (see `WaitingEncoder`).

    Raises:
        CheckpointError: the part is of another kind, or its config or weights are missing or damaged.
    """
    path = resolve_folder(folder)
    kind, _ = class_in(path, kinds, what)
    part = kind.from_pretrained(path, dtype, device)
    if residency != "all":
        from linearsr.guidance.encoders import EncoderPart

        if isinstance(part, EncoderPart):
            part.waiting.residency = residency
    return part


load_stem: Callable[..., "LRStem"] = partial(_load, STEMS, "a stem")
load_guidance: Callable[..., "Guidance"] = partial(_load, GUIDANCES, "guidance")
load_tagger: Callable[..., "Tagger"] = partial(_load, TAGGERS, "a tagger")


def load_parts(
    folder: Path, index: dict[str, Any], dtype: torch.dtype, device: torch.device, residency: Residency
) -> ModelParts:
    """Load the parts that `index` names, except for a tagger whose tags guide nothing.

    Raises:
        CheckpointError: a part is unknown, missing or damaged.
    """
    classes = part_classes(folder, index)
    transformer = guidance = tagger = trunk = None
    if "transformer" in classes:
        from linearsr.flow.experts import SNRExperts
        from linearsr.models.transformer import LinearSRTransformer

        transformer = SNRExperts.from_pretrained(
            folder / "transformer",
            expert_class=LinearSRTransformer,
            dtype=dtype,
            device=device,
            residency=residency,
        )
        transformer.for_each(lambda expert: cast("LinearSRTransformer", expert).fuse_projections_())
    if "guidance" in classes:
        guidance = load_guidance(folder / "guidance", dtype, device, residency)
    if "tagger" in classes and (guidance is not None or index.get("use_tags")):
        tagger = load_tagger(folder / "tagger", dtype, device, residency)
    if "trunk" in classes:
        trunk = RRDBNet.from_pretrained(folder / "trunk", dtype, device)
    stem = STEMS[classes["lr_stem"]].from_pretrained(folder / "lr_stem", dtype, device)
    codec = CODECS[classes["codec"]].from_pretrained(folder / "codec", dtype, device)
    return ModelParts(stem, transformer, codec, guidance, tagger, trunk)


def load_ranges(folder: Path) -> "Ranges":
    """Read the trunk's ranges for 8 bits from `int8_ranges.safetensors`, by block; none if there is no file.

    Raises:
        CheckpointError: the file is damaged, or a range is not above 0.
    """
    path = folder / _INT8_RANGES
    ranges = load_tensors(path) if path.is_file() else {}
    if not all(bool((found.isfinite() & (found > 0)).all()) for found in ranges.values()):
        raise CheckpointError(f"{path}: int8_ranges must be above 0")
    return ranges


def save_ranges(folder: Path, ranges: "Ranges") -> None:
    """Write `int8_ranges.safetensors`, or remove it if there are no ranges."""
    if ranges:
        save_tensors(folder / _INT8_RANGES, ranges)
    else:
        (folder / _INT8_RANGES).unlink(missing_ok=True)


def load_model_tagger(model: str | PathLike[str] | None = None) -> "Tagger":
    """Load the tagger of a model (folder or hub id; None: the built-in one) on the CPU.

    Raises:
        CheckpointError: there is no such model, or it has no tagger.
    """
    folder = find_model(model)
    index = read_index(folder)
    if index.get("tagger") is None:
        raise CheckpointError(
            f"the model {index.get('name', folder)} has no tagger of its own: name another tagger"
        )
    _class_name(index, "tagger", folder)
    return load_tagger(folder / "tagger")


def save_parts(folder: Path, parts: ModelParts, settings: dict[str, Any], dtype: torch.dtype | None) -> None:
    """Write the parts, then the index with their class names and `settings`."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {**settings, "_linearsr_version": __version__}
    for name, part in parts._asdict().items():
        if part is not None:
            part.save_pretrained(folder / name, dtype)
            index[name] = ["linearsr", type(part).__name__]
    if not isinstance(parts.codec, ResidualCodec):
        index["codec"] = ["diffusers", "AutoencoderDC"]
    write_json(folder / MODEL_INDEX, index)


def upload(save: Callable[[Path], object], repo_id: str, private: bool, token: str | None) -> str:
    """Upload the files that `save` writes into a folder to the hub; return the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        save(Path(folder))
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder).commit_url)


def _class_name(index: dict[str, Any], part: str, folder: Path) -> str:
    entry, known = index.get(part), PARTS[part]
    if not isinstance(entry, list) or len(entry) != 2 or str(entry[1]) not in known:
        raise CheckpointError(
            f"{folder / MODEL_INDEX}: {part} is {entry!r}; this version knows {', '.join(known)}"
        )
    return str(entry[1])
