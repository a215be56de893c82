"""The mixture of experts by signal-to-noise ratio: each step of the trajectory goes to one whole network.

A folder of experts is `config.json` with the boundaries, and one sub-folder `expert_0`, `expert_1`, ... for each.
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
    """One expert at a time: the one in use is a submodule, and gives way when another is asked for.

    `load(index)` makes one of `count` experts on the CPU, from memory or from disk. Whatever was done to the
    experts since, by `.to()` or `for_each`, is done again to each one that comes in. Expert 0, with which every
    picture begins, comes in at once, so that a broken folder shows at once and there are parameters that tell
    device and dtype. Calls from several threads take turns.
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
        """Expert `index`, brought in first if another one is there, and there until the end of the block."""
        with self._lock:
            if self.active is None or index != self._index:
                self._swap(index)
            assert self.active is not None
            yield self.active

    def for_each(self, change: Change) -> None:
        """Do `change` to the expert in use now, and to each other one when it comes in.

        It must not write into the weights in place: `load` may hand out the same tensors again.
        """
        with self._lock:
            self._changes.append(change)
            if self.active is not None:
                change(self.active)

    def _swap(self, index: int) -> None:
        # Dropped before the next one comes, so that the device never holds two; and weights made under
        # inference_mode could not be changed outside it.
        self.active = None
        with torch.inference_mode(False), torch.no_grad():
            expert = self.load(index).train(self.training)
            for change in self._changes:
                change(expert)
        self.active, self._index = expert, index

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SwappedExperts":
        # What Module.to(), .cuda(), .half() and so on end in.
        def change(expert: Any) -> None:
            expert._apply(fn, recurse)

        self.for_each(change)
        return self


class SNRExperts(nn.Module):
    """Networks of one signature, one for each span of `partition`; a gate on the time picks one for each step.

    The gate is deterministic, so a step costs one network (arXiv 2510.08771). `experts` are counted from noise to
    image, as the partition counts them; ValueError when their number or their inputs and outputs do not fit.
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
        """The config of expert 0; its inputs, outputs and prediction type are those of all. None for plain modules."""
        return self._config

    def route(self, timestep: float) -> int:
        """The expert for `timestep` in [0, 1000], compared in float32, the precision in which networks see it.

        So a time that lies on a boundary stays on its side, whatever 1000 t was rounded to.
        """
        if not 0 <= timestep <= 1000:
            raise ValueError(f"timestep {timestep} is outside [0, 1000]")
        # route to the expert: no network decides, the time does
        return len(self._limits) - bisect_left(self._limits, _single(timestep))

    def forward(self, hidden_states: Tensor, timestep: Tensor | float, **conditions: Any) -> Any:
        """The output of the expert for `timestep` in [0, 1000], one for the whole batch `hidden_states` (B, C, h, w).

        `conditions` go to the expert as they are.
        """
        value = float(timestep)
        times = torch.full((len(hidden_states),), value, dtype=torch.float32, device=hidden_states.device)
        with self.at(value) as expert:
            return expert(hidden_states, times, **conditions)

    def at(self, timestep: float) -> AbstractContextManager[nn.Module]:
        """The expert for `timestep` in [0, 1000] itself, for as long as the block lasts."""
        index = self.route(timestep)
        if isinstance(self.experts, SwappedExperts):
            return self.experts.use(index)
        return nullcontext(self.experts[index])

    def for_each(self, change: Change) -> None:
        """Do `change` to every expert; where they are swapped, to each when it comes in."""
        if isinstance(self.experts, SwappedExperts):
            self.experts.for_each(change)
        else:
            for expert in self.experts:
                change(expert)

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write every expert into its sub-folder, floating-point weights as `dtype` where given, then the config.

        The experts must be `PretrainedModule`s. Swapped experts are written as they were loaded.
        """
        expert_class = ""
        for index in range(self.partition.num_experts):
            experts = self.experts
            stored = experts.load(index) if isinstance(experts, SwappedExperts) else experts[index]
            expert = cast(PretrainedModule, stored)
            expert.save_pretrained(_expert_folder(folder, index), dtype=dtype)
            expert_class = type(expert).__name__
        # last, so that a folder with a config is a whole one
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
        """The experts in `folder` (or hub id), in evaluation mode.

        A folder that holds a single `expert_class` network is one expert for the whole path.

        Args:
            dtype: of floating-point weights; as stored where not given.
            residency: "all": every expert on `device`; "active": all read now, the one in use on `device`, the
                others in CPU memory; "lazy": each read from disk when it is first needed, the one before dropped.

        Raises:
            CheckpointError: a config or weights that are missing, damaged or do not fit together.
            ValueError: another residency.
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
            # it shares the tensors that are kept until it is moved, so that going back costs no copy
            return expert_class.from_state(kept[index].config, states[index], folders[index])

        return cls(partition, SwappedExperts(load, len(folders))).eval().to(device)


def read_partition(folder: Path) -> Partition:
    """The spans of the experts in a folder. Raises CheckpointError where its config is damaged."""
    with prefixed(f"{folder / CONFIG_NAME}: ", CheckpointError, (TypeError, ValueError)):
        return Partition(tuple(float(boundary) for boundary in load_config(folder).get("boundaries", ())))


def read_layout(folder: Path, expert_class: type[PretrainedModule]) -> tuple[Partition, list[Path]]:
    """The spans of the experts in a folder, and the folder of each. Raises CheckpointError for a damaged one."""
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
    """`value` rounded to float32."""
    return float(np.float32(value))
