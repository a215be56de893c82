"""What a run carries from step to step: the averaged weights, and checkpoints from which it goes on unchanged.

Checkpoints are safetensors and JSON, written by `torch.distributed.checkpoint`: each process writes its part of the
tensors, and a run may go on with another number of processes.
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
    """Average of the parameters; buffers are copied. The decay grows from zero, so that the start is soon forgotten.

    It is a state and no second network, so that it also holds the shards of a network that is split over devices.
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
        """Average in the weights after a step."""
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
        """Give `network` the buffers of its last good step back."""
        _copy({n: tensor for n, tensor in self.state.items() if n not in self._parameters}, network)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the averaged weights."""
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
    """How far a run is."""

    images: int = 0
    lr_scale: float = 1.0
    """What the divergence guard has left of the learning rate."""
    rollbacks: int = 0


class Checkpoints:
    """The checkpoints of a run under `root`, of the objects that they are put back into."""

    def __init__(
        self, root: Path, network: nn.Module, ema: ExponentialMovingAverage, optimizer: Optimizer
    ) -> None:
        self.root, self.network, self.ema, self.optimizer = root, network, ema, optimizer

    def newest(self) -> Path | None:
        """The folder of the newest complete one, if any."""
        return latest_checkpoint(self.root)

    def save(self, progress: Progress, keep: int, write: bool) -> None:
        """Write `root/<images>` whole or not at all, then remove all but the newest `keep`.

        Every process must call it and writes its part of the tensors; the one with `write` does the rest.
        """
        folder = self.root / f"{progress.images:010d}"
        draft = self.root / f".{folder.name}.tmp"
        state = self.optimizer.state_dict()
        slots = {
            index: {name: torch.as_tensor(value).contiguous() for name, value in slot.items()}
            for index, slot in state["state"].items()
        }
        # one after the other: what is written is in memory twice meanwhile
        for name, tensors in self._tensors(slots):
            writer = HuggingFaceStorageWriter(str(draft / name), save_distributed=True)
            with _own_errors():
                save({name: tensors}, storage_writer=writer)
        if not write:
            return
        # what an optimizer counts per group; the rest is the config's, which may have changed
        groups = [{key: group[key] for key in ("step",) if key in group} for group in state["param_groups"]]
        rest = {"ema_steps": self.ema.steps, "optimizer_groups": groups, "parts": _parts(draft)}
        write_json(draft / _PROGRESS, {**asdict(progress), **rest})
        if folder.exists():
            _remove(folder)
        os.replace(draft, folder)
        for old in _checkpoints(self.root)[:-keep]:
            _remove(old)

    def load(self, folder: Path) -> Progress:
        """Put a checkpoint back; returns how far it was. Raises ConfigError if a part of it is missing."""
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
            reader.read_metadata()  # `load` would not say why it cannot be read
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
    """The newest complete checkpoint under `root`, or None."""
    return max(_checkpoints(root), default=None)


def _checkpoints(root: Path) -> list[Path]:
    """The folders of checkpoints, the oldest first."""
    return sorted(path for path in root.glob("[0-9]*") if path.is_dir())


def _parts(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors"))


def _empty_slots(folder: Path, optimizer: Optimizer) -> dict[int, dict[str, Tensor]]:
    """Empty tensors for the optimizer's state; those of a parameter's shape are split as it is."""
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
    """Raise the error of one process in the place of a `CheckpointException`, which is no `Exception`."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


def _remove(folder: Path) -> None:
    # under another name first: a run that is killed meanwhile must not take what is left for a checkpoint
    doomed = folder.with_name(f".{folder.name}.old")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def whole(state: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Gather the tensors of a state on the CPU; every process must call this, and gets them if it `keep`s."""
    gathered = {}
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            gathered[name] = full.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return gathered
