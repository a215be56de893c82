"""A training checkpoint: everything needed to go on as if nothing had happened, as safetensors and JSON."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel


def save_checkpoint(
    root: Path, images: int, network: nn.Module, ema: AveragedModel, optimizer: Optimizer, keep: int
) -> Path:
    """Write `root/<images>` whole or not at all, then remove all but the newest `keep` checkpoints."""
    folder = root / f"{images:010d}"
    draft = root / f".{folder.name}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(_contiguous(network.state_dict()), draft / "network.safetensors")
    save_file(_contiguous(ema.state_dict()), draft / "ema.safetensors")
    save_file(_optimizer_tensors(optimizer), draft / "optimizer.safetensors")
    (draft / "progress.json").write_text(json.dumps({"images": images}), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(draft, folder)
    for old in _checkpoints(root)[:-keep]:
        shutil.rmtree(old)
    return folder


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint under `root`, or None."""
    found = _checkpoints(root)
    return found[-1] if found else None


def load_checkpoint(folder: Path, network: nn.Module, ema: AveragedModel, optimizer: Optimizer) -> int:
    """Put a checkpoint back into the objects it was made from; returns its image count."""
    network.load_state_dict(load_file(folder / "network.safetensors"))
    ema.load_state_dict(load_file(folder / "ema.safetensors"))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(json.loads((folder / "progress.json").read_text(encoding="utf-8"))["images"])


def _checkpoints(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("[0-9]*") if p.is_dir()) if root.is_dir() else []


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, slot in state.items() for name, value in slot.items()}


def _contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}
