"""Low-rank updates (LoRA, arXiv 2106.09685) of a network's dense layers, through `peft`."""

from collections.abc import Mapping, Sequence

from pydantic import Field
from torch import Tensor, nn

from linearsr.training.section import ConfigError, Section, require

_ADAPTER = "default"
_BASE, _DOWN, _UP = ".base_layer.", f".lora_A.{_ADAPTER}.", f".lora_B.{_ADAPTER}."


class LoraConfig(Section):
    """W + (alpha / rank) B A, with B starting at zero; only A and B are trained."""

    rank: int = Field(16, gt=0)
    alpha: int = Field(16, gt=0)
    targets: tuple[str, ...] = Field(("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Ends of the names of the layers that get one."""


def add_lora(network: nn.Module, config: LoraConfig, whole: Sequence[str] = ()) -> None:
    """Put the updates into `network`, in place, and freeze all else but the parameters named in `whole`.

    Raises:
        ConfigError: `peft` is not installed, a target that fits no layer, or one that is not linear.
    """
    require("peft", "stage.lora")
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    for target in config.targets:
        layers = [layer for name, layer in network.named_modules() if f".{name}".endswith(f".{target}")]
        if not layers:
            raise ConfigError(f"stage.lora.targets: the network has no layer {target}")
        if not all(isinstance(layer, nn.Linear) for layer in layers):
            raise ConfigError(f"stage.lora.targets: {target} is no linear layer, which low-rank updates need")
    inject_adapter_in_model(
        PeftConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets)), network
    )
    for name, parameter in network.named_parameters():
        if name in whole:
            parameter.requires_grad_(True)


def merge_lora(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The state of the plain network that computes the same as one with updates and this `state`."""
    merged = {
        name.replace(_BASE, "."): tensor
        for name, tensor in state.items()
        if _DOWN not in name and _UP not in name
    }
    for name in state:
        if _DOWN in name:
            plain, up = name.replace(_DOWN, "."), state[name.replace(_DOWN, _UP)]
            update = (config.alpha / config.rank) * (up.float() @ state[name].float())
            merged[plain] = merged[plain] + update.to(merged[plain].dtype)
    return merged
