"""The processes of one run, and what they must agree on; with a single process, there is nothing to do.

Only the main process writes. It alone also reads the run folder, and tells the others what it found: a
process that reads later would see what the main process has written since, and decide differently.
"""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from linearsr.training.config import TrainConfig
from linearsr.training.section import ConfigError

_T = TypeVar("_T")


def start(config: TrainConfig) -> Accelerator:
    """Join the other processes of the run, as set up by `torchrun` or `accelerate launch`.

    Raises ConfigError: when a setting does not fit the number of processes, or split weights (FSDP).
    """
    # hide warnings about gradient layout (free here), writes to outputs (no loss has any), a single process
    for message in (
        "Grad strides do not match",
        "FSDP2-wrapped module .* returned a view",
        "torch.distributed is disabled, unavailable or uninitialized",
    ):
        warnings.filterwarnings("ignore", message)
    # a stage may differ in precision from the previous one in this process
    if (
        AcceleratorState._shared_state.get("_mixed_precision", config.mixed_precision)
        != config.mixed_precision
    ):
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=_on_cpu())
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        if plugin.fsdp_version != 2:
            raise ConfigError(
                "FSDP: version 1 does not work here: set fsdp_version: 2 with `accelerate config`"
            )
        # all processes make the same weights from the seed; loading them from the main one fails for buffers
        plugin.cpu_ram_efficient_loading = False
        # autocast computes in bfloat16, as without FSDP; `accelerate` would also round inputs such as times
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
        if config.optimizer.name == "came":
            raise ConfigError(
                "optimizer.name: came does not work on split weights (FSDP): choose adamw or muon"
            )
    processes = accelerator.num_processes
    if config.batch_size % (processes * config.accumulation):
        times = f" times accumulation {config.accumulation}" if config.accumulation > 1 else ""
        raise ConfigError(
            f"batch_size: {config.batch_size} is not a multiple of the {processes} processes{times}"
        )
    return accelerator


def from_main(make: Callable[[], _T]) -> _T:
    """Return the result of `make` on the main process, or raise its ConfigError; all processes call it."""
    found: list[Any] = [None]
    if PartialState(cpu=_on_cpu()).is_main_process:
        try:
            found = [make()]
        except ConfigError as error:
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], ConfigError):
        raise found[0]
    value: _T = found[0]
    return value


@torch.no_grad()
def average_buffers(accelerator: Accelerator, network: nn.Module) -> None:
    """Average running statistics over the processes, each of which saw a part of the batch.

    A mean is then that of the whole batch; a variance lacks the small differences between the parts' means.
    """
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.copy_(accelerator.reduce(buffer, "mean"))


def leave() -> None:
    """Leave the process group at the end."""
    PartialState(cpu=_on_cpu()).destroy_process_group()


def _on_cpu() -> bool:
    # without this, `accelerate` takes processes of `torchrun` on a machine without GPU for separate runs
    return parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
