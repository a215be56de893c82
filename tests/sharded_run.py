"""Trains single runs one after another with FSDP2: torchrun --nproc-per-node 2 sharded_run.py CONFIG..."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from linearsr.training.processes import leave
from linearsr.training.trainer import Trainer
from training_tools import load_config


def shard_on_cpu(mixed_precision: str) -> None:
    """`accelerate` turns FSDP on where there are GPUs only; its own code for it also works over gloo."""
    AcceleratorState._reset_state()
    Accelerator(mixed_precision=mixed_precision, cpu=True)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    if mixed_precision != "no":
        plugin.set_mixed_precision(mixed_precision)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = plugin


def check_inputs(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Times are told in full: of bfloat16, 939 of 1000 would be 940."""
    assert all(tensor.dtype == torch.float32 for tensor in inputs)


def main() -> None:
    for path in sys.argv[1:]:
        config = load_config(Path(path))
        shard_on_cpu(config.mixed_precision)
        trainer = Trainer(config)
        assert trainer.accelerator.is_fsdp2
        assert type(trainer.network).__name__.startswith("FSDP")
        for name, network in trainer.bare.named_children():
            if name == "transformer":
                network.register_forward_pre_hook(check_inputs)
        trainer.resume()
        trainer.run()
    leave()
    # FSDP2's caches keep gloo's threads alive: Python, when it ends, would abort at one that is still at work
    os._exit(0)


if __name__ == "__main__":
    main()
