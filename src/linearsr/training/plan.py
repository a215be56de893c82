"""What runs would take, without training: parameters, memory, data and schedule."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from linearsr.runtime.checkpoints import HUB_ID
from linearsr.training.blueprint import UnknownCodec
from linearsr.training.checks import check
from linearsr.training.codec import CodecStage
from linearsr.training.config import TrainConfig
from linearsr.training.data import check_data
from linearsr.training.distill import DistillStage
from linearsr.training.flow import FlowObjective
from linearsr.training.objective import Batch, Objective
from linearsr.training.recipe import Run

_MOMENTS = {"adamw": 2, "came": 1, "muon": 1}
_FLOAT32 = 4


def describe(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """The plan of each run, by its name, as readable lines by topic. Raises ConfigError as `check` does."""
    objectives = check(runs)
    return {
        run.name: _describe(run.config, objectives[run.name])
        if run.name in objectives
        else {"network": f"{run.config.stage.kind} of finished parts, without training"}
        for run in runs
    }


def _describe(config: TrainConfig, objective: Objective) -> dict[str, str]:
    scale, data, rate = objective.scale, config.data, config.optimizer
    catalogue = check_data(data, scale)
    share = f"best {100 * data.best_share:g}% of " if data.best_share < 1 else ""
    every = config.validation.every_images
    end = " at most, to the knee" if config.stop_at_knee else ""
    network, memory = _size_up(config, objective)
    return {
        "network": network,
        "memory": memory,
        "data": f"{share}{len(catalogue):,} photos, {catalogue.pixels / 1e6:,.0f} megapixels; "
        f"{len(catalogue.skipped)} broken, {catalogue.too_small} smaller than a crop",
        "batch": f"{config.batch_size} crops of {data.lr_crop * scale} px (LR {data.lr_crop} px)",
        "schedule": f"{config.total_images:,} images in {config.total_images // config.batch_size:,} steps{end}; "
        f"validation every {every:,} images ({config.total_images // every} times)",
        "optimizer": f"{rate.name}, learning rate {rate.lr:g} after {rate.warmup_images:,} images, "
        f"{rate.final_lr:g} at the end",
    }


def _size_up(config: TrainConfig, objective: Objective) -> tuple[str, str]:
    """The parameters, and the memory of each process that trains them."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parameters = list(objective.network.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = _FLOAT32 * sum(p.numel() for part in _frozen(objective) for p in part.parameters())
    activations = _activations(config, objective, max(1, config.batch_size // processes))
    # all weights and their average, but gradients and moments only of what is trained
    fixed = _FLOAT32 * (2 * count + (1 + _MOMENTS[config.optimizer.name]) * trained)
    memory = f"about {_size(fixed + frozen + activations)}" + (" a process" if processes > 1 else "")
    memory += f": weights, gradients, optimizer, average {_size(fixed)}, "
    memory += f"frozen parts {_size(frozen)}, " if frozen else ""
    memory += f"activations {_size(activations)}"
    unknown = ", ".join(_unknown(config, objective))
    return (
        f"{count / 1e6:.2f} M parameters"
        + (f", {trained / 1e6:.2f} M of them trained" if trained < count else ""),
        memory + (f"; without {unknown}" if unknown else ""),
    )


def _frozen(objective: Objective) -> list[nn.Module]:
    """What lies beside the network that is trained."""
    own = {id(module) for module in objective.network.modules()}
    return [part for part in vars(objective).values() if isinstance(part, nn.Module) and id(part) not in own]


def _unknown(config: TrainConfig, objective: Objective) -> list[str]:
    """The parts that are not counted."""
    stage, found = config.stage, []
    if isinstance(stage, CodecStage) and stage.init is not None and HUB_ID.fullmatch(stage.init):
        found.append(f"knowing {stage.init}")
    if isinstance(getattr(objective, "codec", None), UnknownCodec):
        found.append("the codec")
    if isinstance(stage, DistillStage):
        beside = {"teacher": stage.teacher, "rollout": stage.rollout}
        found += [f"the {name}" for name, there in beside.items() if there]
    return found


def _activations(config: TrainConfig, objective: Objective, count: int) -> int:
    """Bytes that the loss of `count` samples keeps for the backward pass, beside the weights."""
    side = -(-config.data.lr_crop // objective.multiple_of) * objective.multiple_of
    hr_side = side * objective.scale
    tags = 0 if objective.vocabulary is None else len(objective.vocabulary.tags)
    if isinstance(objective, FlowObjective):
        objective.guidance = None  # encoders look at words, of which there are none
    # fake tensors have shapes and types, and take no memory
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        for module in (objective.network, *_frozen(objective)):
            module._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]
        lr, hr = torch.empty(count, 3, side, side), torch.empty(count, 3, hr_side, hr_side)
        batch = Batch(lr, hr, torch.empty(count, tags), list(range(count)))
        return _saved_bytes(objective.network, lambda: objective.loss(objective.network, batch))


def _saved_bytes(network: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes that a forward pass keeps for the backward pass, beside the weights."""
    kept = {parameter.untyped_storage()._cdata: 0 for parameter in network.parameters()}
    storages = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            storages.append(storage)  # alive until the end: a freed one's number would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
