"""What runs would take, without training: parameters, memory, data and schedule."""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from linearsr.models.lr_stem import (
    LRCondition,
    PredictiveStem,
    PredictiveStemConfig,
    StridedStem,
    StridedStemConfig,
)
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.checks import check
from linearsr.training.codec import CodecStage
from linearsr.training.config import TrainConfig
from linearsr.training.data import check_data
from linearsr.training.distill import DistillStage
from linearsr.training.flow import FlowNetwork, FlowStage
from linearsr.training.lora import LoraConfig
from linearsr.training.recipe import Run
from linearsr.training.section import ConfigError
from linearsr.training.shapes import DC_AE, CodecShape, Shapes, StemShape
from linearsr.training.stem import StemStage
from linearsr.training.tagger import TaggerStage

_MOMENTS = {"adamw": 2, "came": 1, "muon": 1}
_FLOAT32 = 4


class _Sketch(NamedTuple):
    """A network without memory of its own, one pass of a batch through it, and what lies frozen beside it."""

    network: nn.Module
    forward: Callable[[], Tensor]
    frozen: Sequence[nn.Module] = ()
    unknown: str = ""
    """The parts that are not counted."""


def describe(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """The plan of each run, by its name, as readable lines by topic. Raises ConfigError as `check` does."""
    shapes = check(runs)
    return {run.name: _describe(run.config, shapes) for run in runs}


def _describe(config: TrainConfig, shapes: Shapes) -> dict[str, str]:
    scale = shapes.scale(config.stage)
    catalogue = check_data(config.data, scale)
    share = f"best {100 * config.data.best_share:g}% of " if config.data.best_share < 1 else ""
    steps = config.total_images // config.batch_size
    rate = config.optimizer
    every = config.validation.every_images
    end = " at most, to the knee" if config.stop_at_knee else ""
    network, memory = _size_up(config, shapes, scale)
    return {
        "network": network,
        "memory": memory,
        "data": f"{share}{len(catalogue):,} photos, {catalogue.pixels / 1e6:,.0f} megapixels; "
        f"{len(catalogue.skipped)} broken, {catalogue.too_small} smaller than a crop",
        "batch": f"{config.batch_size} crops of {config.data.lr_crop * scale} px (LR {config.data.lr_crop} px)",
        "schedule": f"{config.total_images:,} images in {steps:,} steps{end}; "
        f"validation every {every:,} images ({config.total_images // every} times)",
        "optimizer": f"{rate.name}, learning rate {rate.lr:g} after {rate.warmup_images:,} images, "
        f"{rate.final_lr:g} at the end",
    }


def _size_up(config: TrainConfig, shapes: Shapes, scale: int) -> tuple[str, str]:
    """The parameters, and the memory of each process that trains them."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    # fake tensors have shapes and types, and take no memory
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        sketch = _sketch(config, shapes, max(1, config.batch_size // processes), scale)
        activations = _saved_bytes(sketch.network, sketch.forward)
        if isinstance(config.stage, FlowStage) and config.stage.lora is not None:
            _freeze(sketch.network.get_submodule("transformer"), config.stage.lora)
    parameters = list(sketch.network.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    # all weights and their average, but gradients and moments only of what is trained
    fixed = _FLOAT32 * (2 * count + (1 + _MOMENTS[config.optimizer.name]) * trained)
    frozen = _FLOAT32 * sum(p.numel() for part in sketch.frozen for p in part.parameters())
    network = f"{count / 1e6:.2f} M parameters"
    memory = f"about {_size(fixed + frozen + activations)}" + (" a process" if processes > 1 else "")
    memory += f": weights, gradients, optimizer, average {_size(fixed)}, "
    memory += f"frozen parts {_size(frozen)}, " if frozen else ""
    memory += f"activations {_size(activations)}"
    return (
        network + (f", {trained / 1e6:.2f} M of them trained" if trained < count else ""),
        memory + (f"; without {sketch.unknown}" if sketch.unknown else ""),
    )


def _sketch(config: TrainConfig, shapes: Shapes, batch: int, scale: int) -> _Sketch:
    stage, lr_crop = config.stage, config.data.lr_crop
    lr = torch.empty(batch, 3, lr_crop, lr_crop)
    if isinstance(stage, StemStage):
        settings = shapes.stem(stage)
        assert isinstance(settings, PredictiveStemConfig)
        stem = PredictiveStem(settings)
        return _Sketch(stem, lambda: stem(lr).prediction)
    if isinstance(stage, TaggerStage):
        tagger = stage.objective().network
        return _Sketch(tagger, lambda: tagger(lr))
    if isinstance(stage, CodecStage):
        codec = shapes.codec(stage)
        autoencoder = _autoencoder(codec or DC_AE)
        image = torch.empty(batch, 3, lr_crop * scale, lr_crop * scale)
        unknown = f"knowing {stage.init}" if codec is None else ""
        return _Sketch(autoencoder, lambda: autoencoder(image).sample, unknown=unknown)
    return _sketch_flow(stage, shapes, lr, scale)


def _sketch_flow(stage: FlowStage, shapes: Shapes, lr: Tensor, scale: int) -> _Sketch:
    shape, codec = shapes.transformer(stage), shapes.codec(stage)
    assert shape is not None  # a network is in a folder, or made by a run before
    transformer = LinearSRTransformer(shape)
    if stage.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    stem = _stem(shapes.stem(stage) or StridedStemConfig(channels=shape.lr_channels))
    along = stem if stage.stem is None and isinstance(stem, StridedStem) else None
    network = FlowNetwork(transformer, along)
    side = -(-lr.shape[-1] * scale // (codec or DC_AE).compression)
    latent = torch.empty(len(lr), shape.in_channels, side, side)
    condition = LRCondition(torch.empty(len(lr), shape.lr_channels, side, side))

    def forward() -> Tensor:
        prediction: Tensor = network(latent, torch.empty(len(lr)), lr, condition)
        return prediction

    frozen = [stem] if along is None else []
    if codec is not None and codec.autoencoder is not None:
        frozen.append(_autoencoder(codec))
    unknown = [] if codec is not None else ["the codec"]
    if isinstance(stage, DistillStage):
        beside = {"discriminator": stage.adversarial, "teacher": stage.teacher, "rollout": stage.rollout}
        unknown += [f"the {name}" for name, there in beside.items() if there]
    return _Sketch(network, forward, frozen, ", ".join(unknown))


def _freeze(network: nn.Module, config: LoraConfig) -> None:
    """Leave parameters of the size of the low-rank updates to be trained; `peft` itself takes no fake tensors."""
    network.requires_grad_(False)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear) and f".{name}".endswith(tuple(f".{end}" for end in config.targets)):
            size = config.rank, layer.in_features + layer.out_features
            layer.register_parameter("updates", nn.Parameter(torch.empty(size)))


def _stem(shape: StemShape) -> nn.Module:
    return PredictiveStem(shape) if isinstance(shape, PredictiveStemConfig) else StridedStem(shape)


def _autoencoder(codec: CodecShape) -> nn.Module:
    from diffusers import AutoencoderDC

    try:
        autoencoder: nn.Module = AutoencoderDC(**(codec.autoencoder or {}))
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"stage.autoencoder: {error}") from None
    return autoencoder


def _saved_bytes(network: nn.Module, forward: Callable[[], Tensor]) -> int:
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
