"""Checkpoints: folders with `config.json` and safetensors weights, named as in `diffusers`.

A folder with only pickles is refused, because pickles can run code when they are opened.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from linearsr.runtime.files import from_json, prefixed, whole_file

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
WEIGHTS_AND_VOCABULARIES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Patterns of the files of a network and its tokenizer."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SCALE_SUFFIX = "_scale"
"""Suffix of the name of an 8-bit weight's scales, see `quantised`."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
StrPath = str | os.PathLike[str]
_T = TypeVar("_T")
_Self = TypeVar("_Self", bound="PretrainedModule")


class CheckpointError(ValueError):
    """Raised for a checkpoint that is missing, damaged, unsafe or for another network; one line."""


def resolve_folder(name_or_path: StrPath, parts: Sequence[str] | None = None) -> Path:
    """Return the folder of a model, downloaded if necessary.

    An existing folder is returned as it is; `owner/name` or `owner/name@revision` is downloaded from the
    Hugging Face hub (JSON, safetensors and vocabularies only; `parts` limits it to these sub-folders).
    Raises CheckpointError when it is neither a folder nor a hub id, or the download fails.
    """
    path, name = Path(name_or_path), os.fspath(name_or_path)
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(f"{name} is a file; name the folder that holds its {CONFIG_NAME}")
    if not HUB_ID.fullmatch(name):
        raise CheckpointError(f"{name}: no such folder, and not a hub id of the form owner/name[@revision]")
    from huggingface_hub import snapshot_download

    repo, _, revision = name.partition("@")
    try:
        places = [f"{part}/" for part in parts or ()] or [""]
        patterns = [f"{place}{kind}" for place in places for kind in WEIGHTS_AND_VOCABULARIES]
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name}: no such folder, and not available from the hub: {reason}") from error


def save_weights(folder: StrPath, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write `diffusion_pytorch_model.safetensors`, then `config.json`, into `folder`, each by rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS_NAME, state)
    write_json(folder / CONFIG_NAME, dict(sorted(config.items())))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file by rename. Tensors may be on any device, and may share memory."""
    stored = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with whole_file(path) as draft:
        save_file(stored, draft, metadata={"format": "pt"})


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a JSON object by rename, so that the file is complete or missing."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps(dict(contents), indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file. Raises CheckpointError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; is this the folder of a model?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


def load_config(folder: StrPath) -> dict[str, Any]:
    """Read `folder/config.json`. Raises CheckpointError if it is missing or not a JSON object."""
    return read_json(Path(folder) / CONFIG_NAME)


def load_weights(folder: StrPath, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Load all tensors of `folder`, from one file or shards. Raises CheckpointError if any is missing."""
    state: dict[str, Tensor] = {}
    for path in _weight_files(Path(folder)):
        if not path.is_file():
            raise CheckpointError(f"{path}: this part of the checkpoint is missing; download it again")
        state.update(load_tensors(path, device))
    return state


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Load a safetensors file, `quantised` tensors as float32. Raises CheckpointError if it is damaged."""
    try:
        state = load_file(path, device=str(device))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a safetensors file ({error}); download it again"
        ) from error
    for name in [name for name in state if name.endswith(SCALE_SUFFIX)]:
        weight = name.removesuffix(SCALE_SUFFIX)
        if weight in state and state[weight].dtype == torch.int8:
            state[weight] = state[weight].float() * state.pop(name).float()
    return state


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert weights of convolutions to 8-bit integers, for a file of half the size; keep other tensors.

    Each kernel (of one input and one output channel) has a float16 scale in `NAME_scale`: its largest
    magnitude over 127. 1x1 kernels share one scale per output channel. `load_tensors` undoes the scaling.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.ndim != 4:
            stored[name] = tensor
            continue
        weight = tensor.float()
        shared = (2, 3) if weight[0, 0].numel() > 1 else (1, 2, 3)
        least = 2.0**-24  # the smallest number above zero in float16
        scale = (weight.abs().amax(shared, keepdim=True) / 127).clamp(min=least).half()
        stored[name] = (weight / scale.float()).round().clamp(-127, 127).to(torch.int8)
        stored[name + SCALE_SUFFIX] = scale
    return stored


def check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor | torch.Size], where: StrPath
) -> None:
    """Raise CheckpointError, which names them, if tensors are missing, unexpected or of another shape."""
    shapes = {name: tuple(getattr(value, "shape", value)) for name, value in expected.items()}
    found = {
        "missing": [name for name in shapes if name not in state],
        "unexpected": [name for name in state if name not in shapes],
        "other shape:": [
            f"{name} is {tuple(state[name].shape)}, not {shape}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ],
    }
    if any(found.values()):
        problems = "; ".join(f"{kind} {_some(names)}" for kind, names in found.items() if names)
        raise CheckpointError(f"{os.fspath(where)}: the weights do not fit this network: {problems}")


class PretrainedModule(nn.Module):
    """Base of networks that are saved as one folder.

    A subclass sets `config_class` to a frozen dataclass of JSON-able fields, takes one such config as its
    only argument and keeps it as `self.config`.
    """

    config_class: ClassVar[type[Any]]
    config: Any

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write the config and the weights; `dtype`, if given, converts floating-point weights."""
        config = {"_class_name": type(self).__name__, **dataclasses.asdict(self.config)}
        save_weights(folder, config, _as_dtype(self.state_dict(), dtype))

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: StrPath,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> _Self:
        """Load a network from a folder or hub id in evaluation mode; `dtype` converts floating-point weights.

        Raises CheckpointError when the config or weights are missing, damaged or made for another class.
        """
        path = resolve_folder(folder)
        config = cls.parse_config(load_config(path), path / CONFIG_NAME)
        return cls.from_state(config, _as_dtype(load_weights(path, device), dtype), path)

    @classmethod
    def parse_config(cls, raw: Mapping[str, Any], where: StrPath = CONFIG_NAME) -> Any:
        """Create a `config_class` from the contents of a `config.json`, without its keys that start with `_`.

        Raises CheckpointError for an unknown key, a value the config refuses, or the config of another class.
        """
        place = os.fspath(where)
        written_for = raw.get("_class_name", cls.__name__)
        if written_for != cls.__name__:
            raise CheckpointError(f"{place}: written for {written_for}, not for {cls.__name__}")
        values = {key: value for key, value in raw.items() if not key.startswith("_")}
        unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls.config_class)})
        if unknown:
            raise CheckpointError(f"{place}: unknown setting {_some(unknown)}; a newer linearsr may know it")
        with prefixed(f"{place}: ", CheckpointError):
            return from_json(cls.config_class, values)

    @classmethod
    def from_state(cls: type[_Self], config: Any, state: Mapping[str, Tensor], where: StrPath) -> _Self:
        """Create a network on the tensors of `state`, not copies. Raises CheckpointError unless they fit."""
        with torch.device("meta"), _NoInitialisation():
            model = cls(config)
        check_state(state, model.state_dict(), where)
        model.load_state_dict(dict(state), assign=True)
        return model.eval()


class _NoInitialisation(TorchFunctionMode):
    """A mode that skips in-place writes to tensors, because weights that are replaced need no initial values.

    On the meta device such writes change nothing, but the first one imports torch's compiler, which takes seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name == "__setitem__":
            return None
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def class_in(folder: Path, classes: Mapping[str, _T], what: str) -> tuple[_T, dict[str, Any]]:
    """Return the class in a folder's `config.json`, and the config. Raises CheckpointError if unknown."""
    raw = load_config(folder)
    name = str(raw.get("_class_name"))
    if name not in classes:
        raise CheckpointError(f"{folder}: holds {name}, not {what} ({', '.join(classes)})")
    return classes[name], raw


def _as_dtype(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = indices or sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise CheckpointError(
            f"{folder}: which of {_some(p.name for p in files)}? Rename one to {WEIGHTS_NAME}"
        )
    if files:
        return _shards(files[0]) if indices else files
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder}: only pickled weights ({_some(pickles)}), which can run code when opened; where you "
            "trust them, convert: safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT)"
        )
    raise CheckpointError(f"{folder}: no {WEIGHTS_NAME}")


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map in this index; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if outside:
        raise CheckpointError(f"{index}: {_some(outside)} is not a safetensors file of this folder")
    return [index.parent / name for name in names]


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
