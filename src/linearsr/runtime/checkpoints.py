"""A folder on disk and the weights in it: `config.json` beside safetensors, named as in `diffusers`.

A folder that holds only pickles is refused: they can run code when they are opened.
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
from linearsr.runtime.quantised import dequantised

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
WEIGHTS_AND_VOCABULARIES = ("*.json", "*.safetensors", "*.model", "*.txt")
"""Of a network and its tokenizer."""
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
StrPath = str | os.PathLike[str]
_T = TypeVar("_T")
_Self = TypeVar("_Self", bound="PretrainedModule")


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, unsafe or made for another network; the message is one line."""


def resolve_folder(name_or_path: StrPath, parts: Sequence[str] | None = None) -> Path:
    """The folder that a user's `--model` means.

    An existing folder is taken as it is; `owner/name` or `owner/name@revision` is downloaded from the
    Hugging Face hub (JSON, safetensors and vocabularies only; `parts` limits it to these sub-folders).

    Raises:
        CheckpointError: neither a folder nor a hub id, or the download failed.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    name = os.fspath(name_or_path)
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
        raise CheckpointError(f"{name}: no such folder, and not to be had from the hub: {reason}") from error


def save_weights(folder: StrPath, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Write `diffusion_pytorch_model.safetensors`, then `config.json` into `folder`, each by rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS_NAME, state)
    write_json(folder / CONFIG_NAME, dict(sorted(config.items())))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file by rename. Tensors may lie on any device and share memory: each is written whole."""
    stored = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with whole_file(path) as draft:
        save_file(stored, draft, metadata={"format": "pt"})


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a JSON object by rename, so that the file is whole or not there."""
    text = json.dumps(dict(contents), indent=2) + "\n"
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError if there is none."""
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
    """The contents of `folder/config.json`. Raises CheckpointError if it is missing or no JSON object."""
    return read_json(Path(folder) / CONFIG_NAME)


def load_weights(folder: StrPath, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of `folder`, from one safetensors file or from the shards that an `*.index.json` lists.

    Raises:
        CheckpointError: nothing to read, a damaged file, or only pickles.
    """
    state: dict[str, Tensor] = {}
    for path in _weight_files(Path(folder)):
        if not path.is_file():
            raise CheckpointError(f"{path}: this part of the checkpoint is missing; download it again")
        state.update(load_tensors(path, device))
    return state


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of one safetensors file. Raises CheckpointError for a damaged file."""
    try:
        return dequantised(load_file(path, device=str(device)))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged or no safetensors file ({error}); download it again"
        ) from error


def check_state(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor | torch.Size], where: StrPath
) -> None:
    """Compare names and shapes of a state with those a network needs.

    Raises:
        CheckpointError: names the tensors that are missing, unexpected or of another shape.
    """
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
    """A network that is one folder on disk.

    A subclass sets `config_class` to a frozen dataclass of JSON-able fields, takes one such config as its only argument
    and keeps it as `self.config`.
    """

    config_class: ClassVar[type[Any]]
    config: Any

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write the config and the weights, floating-point ones as `dtype` where given."""
        config = {"_class_name": type(self).__name__, **dataclasses.asdict(self.config)}
        save_weights(folder, config, _as_dtype(self.state_dict(), dtype))

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: StrPath,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
    ) -> _Self:
        """The network in `folder` (or hub id), in evaluation mode; `dtype` converts floating-point weights.

        Raises:
            CheckpointError: a config or weights that are missing, damaged or made for another class.
        """
        path = resolve_folder(folder)
        config = cls.parse_config(load_config(path), path / CONFIG_NAME)
        return cls.from_state(config, _as_dtype(load_weights(path, device), dtype), path)

    @classmethod
    def parse_config(cls, raw: Mapping[str, Any], where: StrPath = CONFIG_NAME) -> Any:
        """`config_class` from the contents of a `config.json`; keys that start with `_` are notes.

        Raises:
            CheckpointError: an unknown key, a value the config refuses, or the config of another class.
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
        """A network that takes over the tensors of `state` themselves, with no second copy in memory.

        Raises:
            CheckpointError: names or shapes differ; `where` says whose they are.
        """
        with torch.device("meta"), _NoInitialisation():
            model = cls(config)
        check_state(state, model.state_dict(), where)
        model.load_state_dict(dict(state), assign=True)
        return model.eval()


class _NoInitialisation(TorchFunctionMode):
    """Leaves out what writes into tensors: weights that are to be replaced need no first values.

    On the meta device, where this is used, such writes change nothing, but the first one imports torch's compiler,
    which takes longer than to load the default model.
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
    """Which of several classes the part in a folder is of, by its `config.json`, and what that file holds.

    Raises CheckpointError for none of `classes`, whose names are those in that file; `what` was looked for.
    """
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
    if indices := sorted(folder.glob("*.safetensors.index.json")):
        return _shards(_only(indices, folder))
    if files := sorted(folder.glob("*.safetensors")):
        return [_only(files, folder)]
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
        raise CheckpointError(f"{index}: {_some(outside)} is no safetensors file of this folder")
    return [index.parent / name for name in names]


def _only(paths: list[Path], folder: Path) -> Path:
    if len(paths) > 1:
        raise CheckpointError(
            f"{folder}: which of {_some(p.name for p in paths)}? Rename one to {WEIGHTS_NAME}"
        )
    return paths[0]


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
