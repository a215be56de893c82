"""The state of a run: the averaged weights, its progress, and checkpoints from which it resumes unchanged.

Checkpoints are safetensors and JSON, written by `torch.distributed.checkpoint`: each process writes its part
of the tensors, and a run may resume with another number of processes.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from linearsr.runtime.checkpoints import write_json
from linearsr.training.section import ConfigError

_PROGRESS = "progress.json"


class ExponentialMovingAverage:
    """The moving average of the parameters; buffers are copied. Its decay rises, so the start fades soon.

    It is a state dict, not a second network, so it also holds the shards of a network split over devices.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters = {name for name, _ in network.named_parameters()}
        self.state: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the weights after a step to the average."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averaged, current = [], []
        for name, tensor in network.state_dict().items():
            if name in self._parameters:
                averaged.append(self.state[name])
                current.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def restore_buffers(self, network: nn.Module) -> None:
        """Restore the buffers of `network` to those of its last good step."""
        _copy({n: tensor for n, tensor in self.state.items() if n not in self._parameters}, network)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Give `network` the averaged weights inside the context, and its own weights back at the end."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        _copy(self.state, network)
        try:
            yield
        finally:
            _copy(own, network)


@torch.no_grad()
def _copy(state: Mapping[str, Tensor], network: nn.Module) -> None:
    own = network.state_dict()
    for name, tensor in state.items():
        own[name].copy_(tensor)


@dataclass
class Progress:
    """The progress of a run."""

    images: int = 0
    """Training images seen so far."""
    lr_scale: float = 1.0
    """Factor of the learning rate, which the divergence guard lowers."""
    rollbacks: int = 0
    """Number of times that the divergence guard has returned to a checkpoint."""


class Checkpoints:
    """The checkpoints of a run under `root`; they hold the given network, average and optimizer."""

    def __init__(
        self, root: Path, network: nn.Module, ema: ExponentialMovingAverage, optimizer: Optimizer
    ) -> None:
        self.root, self.network, self.ema, self.optimizer = root, network, ema, optimizer

    def newest(self) -> Path | None:
        """Return the folder of the newest complete checkpoint, if any."""
        return latest_checkpoint(self.root)

    def save(self, progress: Progress, keep: int, write: bool) -> None:
        """Write `root/<images>`, completely or not at all, then remove all but the newest `keep` checkpoints.

        Every process must call this and writes its part of the tensors; the one with `write` does the rest.
        """
        folder = self.root / f"{progress.images:010d}"
        draft = self.root / f".{folder.name}.tmp"
        state = self.optimizer.state_dict()
        slots = {
            index: {name: torch.as_tensor(value).contiguous() for name, value in slot.items()}
            for index, slot in state["state"].items()
        }
        # one group after the other: tensors are in memory twice while they are written
        for name, tensors in self._tensors(slots):
            writer = HuggingFaceStorageWriter(str(draft / name), save_distributed=True)
            with _own_errors():
                save({name: tensors}, storage_writer=writer)
        if not write:
            return
        # save only the optimizer's step counts per group: other values come from the config, which may change
        groups = [{key: group[key] for key in ("step",) if key in group} for group in state["param_groups"]]
        rest = {"ema_steps": self.ema.steps, "optimizer_groups": groups, "parts": _parts(draft)}
        write_json(draft / _PROGRESS, {**asdict(progress), **rest})
        if folder.exists():
            _remove(folder)
        os.replace(draft, folder)
        for old in _checkpoints(self.root)[:-keep]:
            _remove(old)

    def load(self, folder: Path) -> Progress:
        """Restore a checkpoint and return its progress. Raises ConfigError: when a part of it is missing."""
        progress = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        if lost := sorted(set(progress.pop("parts", [])) - set(_parts(folder))):
            raise ConfigError(
                f"{folder} is not whole, {lost[0]} is missing: remove it to go on from the one before"
            )
        self.ema.steps = progress.pop("ema_steps")
        groups = progress.pop("optimizer_groups")
        slots = _empty_slots(folder / "optimizer", self.optimizer)
        for name, tensors in self._tensors(slots):
            reader = HuggingFaceStorageReader(str(folder / name))
            reader.read_metadata()  # raises the reason if it cannot be read, which `load` would hide
            with _own_errors():
                load({name: tensors}, storage_reader=reader)
        current = self.optimizer.state_dict()["param_groups"]
        merged = [{**group, **saved} for group, saved in zip(current, groups, strict=True)]
        self.optimizer.load_state_dict({"state": slots, "param_groups": merged})
        return Progress(**progress)

    def _tensors(self, slots: Any) -> Iterator[tuple[str, Any]]:
        yield "network", self.network.state_dict()
        yield "ema", self.ema.state
        yield "optimizer", slots

    def update(self, progress: Progress) -> None:
        """Rewrite the progress in the checkpoint at `progress.images`."""
        path = self.root / f"{progress.images:010d}" / _PROGRESS
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **asdict(progress)})

    def remove_drafts(self) -> None:
        """Remove unfinished checkpoints of a killed run."""
        for left in self.root.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)


def latest_checkpoint(root: Path) -> Path | None:
    """Return the newest complete checkpoint under `root`, or None."""
    return max(_checkpoints(root), default=None)


def _checkpoints(root: Path) -> list[Path]:
    """Return the folders of checkpoints, oldest first."""
    return sorted(path for path in root.glob("[0-9]*") if path.is_dir())


def _parts(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors"))


def _empty_slots(folder: Path, optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """Return empty tensors for the optimizer's state; those of a parameter's shape are split like it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, saved in HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata.items():
        assert isinstance(saved, TensorStorageMetadata)
        _, index, name = key.split(".", 2)
        parameter = parameters[int(index)]
        like = parameter if saved.size == parameter.shape else torch.empty(saved.size)
        slots.setdefault(int(index), {})[name] = torch.empty_like(like, dtype=saved.properties.dtype)
    return slots


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the error of one process instead of a `CheckpointException`, which is not an `Exception`."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


def _remove(folder: Path) -> None:
    # rename it first, so that a run killed in the meantime does not mistake the remains for a checkpoint
    doomed = folder.with_name(f".{folder.name}.old")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def whole(state: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Gather the tensors of a state on the CPU; every process must call this, and gets them with `keep`."""
    gathered = {}
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            gathered[name] = full.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return gathered
