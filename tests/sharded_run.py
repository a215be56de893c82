"""Trains single runs one after another with FSDP2: torchrun --nproc-per-node 2 sharded_run.py CONFIG..."""

import sys
from pathlib import Path

from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState

from linearsr.training.config import load_config
from linearsr.training.processes import leave
from linearsr.training.trainer import Trainer


def shard_on_cpu() -> None:
    """`accelerate` turns FSDP on where there are GPUs only; its own code for it also works over gloo."""
    Accelerator(mixed_precision="no", cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP
    AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin(fsdp_version=2)


def main() -> None:
    shard_on_cpu()
    for path in sys.argv[1:]:
        trainer = Trainer(load_config(Path(path)))
        assert trainer.accelerator.is_fsdp2
        assert type(trainer.network).__name__.startswith("FSDP")
        trainer.resume()
        trainer.run()
    leave()


if __name__ == "__main__":
    main()
