"""The mixture of experts by signal-to-noise ratio: each step of the trajectory is taken by one whole network.

A folder of experts holds `config.json` with the boundaries, and one sub-folder per expert: `expert_0`, ...
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from linearsr.flow import Residency
from linearsr.flow.partition import Partition
from linearsr.runtime.checkpoints import (
    CONFIG_NAME,
    CheckpointError,
    PretrainedModule,
    StrPath,
    load_config,
    resolve_folder,
    write_json,
)
from linearsr.runtime.files import prefixed

Change = Callable[[nn.Module], object]

_INTERFACE = ("in_channels", "out_channels", "lr_channels", "caption_channels", "prediction_type")


class SwappedExperts(nn.Module):
    """Experts of which one at a time is loaded: it is a submodule, and is replaced when another is needed.

    `load(index)` makes one of `count` experts on the CPU, from memory or from disk. Changes made by `.to()`
    or `for_each` are repeated on each expert that is loaded later. Expert 0, which begins every picture, is
    loaded immediately: a broken folder shows at once, and its parameters tell device and dtype. Calls from
    several threads take turns.
    """

    def __init__(self, load: Callable[[int], nn.Module], count: int) -> None:
        super().__init__()
        self._count = count
        self.load = load
        self._changes: list[Change] = []
        self._lock = threading.RLock()
        self._index = 0
        self.active: nn.Module | None = load(0)

    def __len__(self) -> int:
        return self._count

    @contextmanager
    def use(self, index: int) -> Iterator[nn.Module]:
        """Yield expert `index`, loaded first if another one is active; it stays until the block ends."""
        with self._lock:
            if self.active is None or index != self._index:
                self._swap(index)
            assert self.active is not None
            yield self.active

    def for_each(self, change: Change) -> None:
        """Apply `change` to the active expert now, and to every other expert when it is loaded.

        `change` must not write into weights in place: `load` may return the same tensors again.
        """
        with self._lock:
            self._changes.append(change)
            if self.active is not None:
                change(self.active)

    def _swap(self, index: int) -> None:
        # Drop the old expert first, so that the device never holds two. Load outside inference_mode: weights
        # made in it could not be changed later.
        self.active = None
        with torch.inference_mode(False), torch.no_grad():
            expert = self.load(index).train(self.training)
            for change in self._changes:
                change(expert)
        self.active, self._index = expert, index

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SwappedExperts":
        # Module.to(), .cuda(), .half() and so on all call this.
        def change(expert: Any) -> None:
            expert._apply(fn, recurse)

        self.for_each(change)
        return self


class SNRExperts(nn.Module):
    """Networks of one signature, one for each span of `partition`; the time of a step selects one of them.

    The selection is deterministic, so a step costs one network (arXiv 2510.08771). `experts` are ordered from
    noise to image, as in the partition. Raises ValueError if their number, or their inputs and outputs, do
    not fit.
    """

    def __init__(self, partition: Partition, experts: Sequence[nn.Module] | SwappedExperts) -> None:
        super().__init__()
        self.partition = partition
        if len(experts) != partition.num_experts:
            raise ValueError(f"{len(experts)} experts for a partition of {partition.num_experts}")
        if isinstance(experts, SwappedExperts):
            self.experts: nn.ModuleList | SwappedExperts = experts
            self._config = getattr(experts.active, "config", None)
        else:
            configs = [getattr(expert, "config", None) for expert in experts]
            _check_interfaces(configs)
            self.experts = nn.ModuleList(experts)
            self._config = configs[0]
        self._limits = [_single(1000 * boundary) for boundary in partition.boundaries]

    @property
    def config(self) -> Any:
        """The config of expert 0, None for plain modules; all share inputs, outputs and prediction type."""
        return self._config

    def route(self, timestep: float) -> int:
        """Return the index of the expert for `timestep` in [0, 1000].

        It is compared in float32, the precision in which networks see it, so a time on a boundary stays on
        its side, however 1000 t was rounded. Raises ValueError outside [0, 1000].
        """
        if not 0 <= timestep <= 1000:
            raise ValueError(f"timestep {timestep} is outside [0, 1000]")
        # route to the expert: the time decides, not a network
        return len(self._limits) - bisect_left(self._limits, _single(timestep))

    def forward(self, hidden_states: Tensor, timestep: Tensor | float, **conditions: Any) -> Any:
        """Run the expert for `timestep` on `hidden_states` (B, C, h, w).

        `timestep`, in [0, 1000], is one for the whole batch. `conditions` are passed to the expert unchanged.
        """
        value = float(timestep)
        times = torch.full((len(hidden_states),), value, dtype=torch.float32, device=hidden_states.device)
        with self.at(value) as expert:
            return expert(hidden_states, times, **conditions)

    def at(self, timestep: float) -> AbstractContextManager[nn.Module]:
        """Return a context manager that yields the expert for `timestep` in [0, 1000]."""
        index = self.route(timestep)
        if isinstance(self.experts, SwappedExperts):
            return self.experts.use(index)
        return nullcontext(self.experts[index])

    def for_each(self, change: Change) -> None:
        """Apply `change` to every expert; experts that are swapped get it when they are loaded."""
        if isinstance(self.experts, SwappedExperts):
            self.experts.for_each(change)
        else:
            for expert in self.experts:
                change(expert)

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write every expert into its sub-folder, then the config.

        Floating-point weights are converted to `dtype` if it is given. The experts must be
        `PretrainedModule`s. Swapped experts are written as `load` returns them.
        """
        expert_class = ""
        for index in range(self.partition.num_experts):
            experts = self.experts
            stored = experts.load(index) if isinstance(experts, SwappedExperts) else experts[index]
            expert = cast(PretrainedModule, stored)
            expert.save_pretrained(_expert_folder(folder, index), dtype=dtype)
            expert_class = type(expert).__name__
        # written last, so that a folder with a config is complete
        write_json(
            Path(folder) / CONFIG_NAME,
            {
                "_class_name": type(self).__name__,
                "boundaries": list(self.partition.boundaries),
                "expert_class": expert_class,
            },
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: StrPath,
        *,
        expert_class: type[PretrainedModule],
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        residency: Residency = "all",
    ) -> "SNRExperts":
        """Load the experts in `folder` (or hub id), in evaluation mode.

        A folder that holds a single `expert_class` network gives one expert for the whole trajectory.

        Args:
            dtype: dtype of floating-point weights; None: as stored.
            residency: "all": every expert on `device`; "active": all are read now, and the one in use is on
                `device`, the others in CPU memory; "lazy": each is read from disk when needed, and the
                previous one dropped.

        Raises:
            CheckpointError: config or weights are missing, damaged or do not fit together.
            ValueError: `residency` is unknown.
        """
        if residency not in get_args(Residency):
            raise ValueError(f"residency {residency!r} is not one of {', '.join(get_args(Residency))}")
        partition, folders = read_layout(resolve_folder(folder), expert_class)
        if residency == "all":
            experts = [expert_class.from_pretrained(path, dtype=dtype, device=device) for path in folders]
            return cls(partition, experts).eval()

        kept = []
        if residency == "active":
            kept = [expert_class.from_pretrained(path, dtype=dtype) for path in folders]
        states = [expert.state_dict() for expert in kept]

        def load(index: int) -> nn.Module:
            if residency == "lazy":
                return expert_class.from_pretrained(folders[index], dtype=dtype)
            # the expert shares the kept tensors until it is moved, so going back costs no copy
            return expert_class.from_state(kept[index].config, states[index], folders[index])

        return cls(partition, SwappedExperts(load, len(folders))).eval().to(device)


def read_partition(folder: Path) -> Partition:
    """Read the spans of the experts in a folder. Raises CheckpointError if its config is damaged."""
    with prefixed(f"{folder / CONFIG_NAME}: ", CheckpointError, (TypeError, ValueError)):
        return Partition(tuple(float(boundary) for boundary in load_config(folder).get("boundaries", ())))


def read_layout(folder: Path, expert_class: type[PretrainedModule]) -> tuple[Partition, list[Path]]:
    """Read the spans of the experts and the folder of each. Raises CheckpointError if damaged."""
    partition = read_partition(folder)
    if "boundaries" not in load_config(folder):
        return partition, [folder]
    folders = [_expert_folder(folder, index) for index in range(partition.num_experts)]
    for path in folders:
        if not path.is_dir():
            raise CheckpointError(f"{path}: this expert is missing; download the model again")
    try:
        _check_interfaces([expert_class.parse_config(load_config(path), path) for path in folders])
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return partition, folders


def _expert_folder(folder: StrPath, index: int) -> Path:
    return Path(folder) / f"expert_{index}"


def _check_interfaces(configs: Sequence[Any]) -> None:
    for name in _INTERFACE:
        values = [getattr(config, name, None) for config in configs]
        if any(value != values[0] for value in values):
            raise ValueError(
                f"the experts differ in {name} ({', '.join(map(str, values))}); it must be the same"
            )


def _single(value: float) -> float:
    """Return `value` rounded to float32."""
    return float(np.float32(value))
