"""Multiply-accumulates (MACs) and parameters of a model, part by part.

Products and convolutions are counted, as `torch.utils.flop_counter` sees them; what works element by element is not.
The networks around the transformer are run once; the transformer is counted without computing anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from linearsr.guidance.encoders import EncoderPart
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.pipeline import LinearSRPipeline

_T = TypeVar("_T")


@dataclass(frozen=True)
class PartCost:
    """What one part of a model costs for one image."""

    part: str
    parameters: int
    macs: int
    """Of one pass; the transformer makes one for each step."""


def _counted(call: Callable[[], object]) -> int:
    """MACs of the products and convolutions in a call."""
    # the counter does not know the fused kernel of the CPU, but the products it stands for
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def transformer_macs(config: TransformerConfig, height: int, width: int, tokens: int | None = None) -> int:
    """MACs of one evaluation (NFE) on a latent of `height` x `width`, with so many guidance tokens.

    Args:
        config: of the network.
        height, width: of the latent.
        tokens: None: the null tokens.
    """
    # fake tensors have shapes only; with gradients allowed, the network does not go band by band
    with torch.inference_mode(False), FakeTensorMode(), torch.enable_grad():
        network = LinearSRTransformer(config).requires_grad_(False)
        inputs = evaluation_inputs(config, height, width, tokens, torch.device("cpu"), torch.float32)
        return _counted(lambda: network(**inputs))


def evaluation_inputs(
    config: TransformerConfig,
    height: int,
    width: int,
    tokens: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Random arguments of one evaluation for one image; see `transformer_macs`."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(1, *shape, device=device, dtype=dtype)

    return {
        "hidden_states": noise(config.in_channels, height, width),
        "timestep": torch.full((1,), 500.0, device=device),
        "lr_features": noise(config.lr_channels, height, width) if config.lr_channels else None,
        "encoder_hidden_states": None if tokens is None else noise(tokens, config.caption_channels),
    }


def count_parts(pipe: LinearSRPipeline, height: int, width: int) -> list[PartCost]:
    """The parts of a model in the order in which they work on an LR image of `height` x `width`."""
    parts: list[PartCost] = []

    def counted(name: str, call: Callable[[], _T]) -> _T:
        made = list[_T]()
        with torch.inference_mode():
            macs = _counted(lambda: made.append(call()))
        parts.append(PartCost(name, _parameters(getattr(pipe, name)), macs))
        return made[0]

    lr = torch.zeros(1, 3, height, width, device=pipe.device)
    tagger, guidance = pipe.tagger, pipe.guidance
    found = [] if tagger is None else counted("tagger", lambda: [tag.name for tag in tagger.tag(lr[0])])
    tokens = None
    if guidance is not None:
        told = counted("guidance", lambda: guidance.encode(lr, [found or ["photo"]]))
        tokens = None if told is None else told.embeds.shape[1]
    padded = [-(-side // pipe.multiple_of) * pipe.multiple_of for side in (height, width)]
    condition = counted("lr_stem", lambda: pipe.lr_stem(torch.zeros(1, 3, *padded, device=pipe.device)))
    rows, columns = condition.features.shape[-2:]
    if pipe.transformer is not None:
        macs = transformer_macs(pipe.transformer.config, rows, columns, tokens)
        parts.append(PartCost("transformer", _parameters(pipe.transformer), macs))
    latent = torch.zeros(1, pipe.codec.latent_channels, rows, columns, device=pipe.device)
    counted("codec", lambda: pipe.codec.decode(latent, condition))
    if pipe.trunk is not None:
        macs = pipe.trunk.macs_per_pixel * padded[0] * padded[1]
        parts.append(PartCost("trunk", _parameters(pipe.trunk), macs))
    return parts


def _parameters(part: object) -> int:
    if isinstance(part, EncoderPart):
        with part.encoder() as encoder:
            return _parameters(encoder)
    return sum(p.numel() for p in part.parameters()) if isinstance(part, nn.Module) else 0
