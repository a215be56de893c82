"""The optimizer, and its learning rate as a function of the number of images seen."""

import math
from typing import Any, Literal

from pydantic import Field
from torch import nn
from torch.optim import AdamW, Optimizer

from linearsr.training.section import Section


class OptimizerConfig(Section):
    """The optimizer and its settings; durations are counted in images."""

    name: Literal["adamw", "came", "muon"] = "adamw"
    """`muon` orthogonalises the updates of dense layers (Jordan et al. 2024), and uses AdamW for the rest."""
    lr: float = Field(5e-4, gt=0)
    final_lr: float = Field(1e-6, ge=0)
    """Learning rate at the end of the cosine; equal to `lr`: constant after the warm-up."""
    warmup_images: int = Field(2000, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the first and second moments; `came` has a third, fixed at 0.9999."""
    max_grad_norm: float = Field(1.0, gt=0)


def build_optimizer(config: OptimizerConfig, network: nn.Module) -> Optimizer:
    """Build the optimizer that `config` names, for all parameters of `network` that require gradients."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.name == "adamw":
        return AdamW(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay)
    from pytorch_optimizer import CAME, Muon

    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "came":
        came: Optimizer = CAME(parameters, betas=(*config.betas, 0.9999), eps1=1e-30, eps2=1e-16, **shared)
        return came
    # Muon takes matrices from all inputs to all outputs: not embeddings, tables, or depthwise convolutions
    dense = {
        id(module.weight)
        for module in network.modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and min(module.weight.shape[0], module.weight[0].numel()) > 1
    }
    # the adjusted rate makes updates as large as AdamW's, so one learning rate fits both (Moonlight, 2025)
    kinds = ({"use_muon": True, "use_adjusted_lr": True}, {"use_muon": False, "betas": config.betas})
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if (id(p) in dense) == kind["use_muon"]], **kind, **shared}
        for kind in kinds
    ]
    muon: Optimizer = Muon([group for group in groups if group["params"]])
    return muon


def learning_rate(config: OptimizerConfig, images: int, total_images: int) -> float:
    """Return the learning rate: a linear warm-up, then a cosine down to `final_lr` at `total_images`."""
    if images < config.warmup_images:
        return config.lr * (images + 1) / config.warmup_images
    done = (images - config.warmup_images) / max(1, total_images - config.warmup_images)
    return config.final_lr + (config.lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
