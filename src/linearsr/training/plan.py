"""What a run would take, without training: parameters, memory, data and schedule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from linearsr.checkpoints import CONFIG_NAME, load_config
from linearsr.models.codec import ResidualCodecConfig
from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.catalogue import Catalogue
from linearsr.training.codec import CodecStage
from linearsr.training.config import TrainConfig, check_run_dir
from linearsr.training.data import check_data
from linearsr.training.flow import FlowStage
from linearsr.training.section import ConfigError
from linearsr.training.sources import find_photos
from linearsr.training.stem import StemStage

SCALE = 4
_DC_AE_COMPRESSION = 32
_MOMENTS = {"adamw": 2, "came": 1, "muon": 1}
_FLOAT32 = 4


def check(config: TrainConfig, recipe_dir: Path | None = None) -> Catalogue:
    """What can be known to fail before anything is built; returns the photos to train on.

    Args:
        config: of a run.
        recipe_dir: of the recipe that it belongs to; what lies in there may still have to be trained.

    Raises:
        ConfigError: one line that names the key.
    """
    check_run_dir(config.run_dir)
    for key in ("init", "stem"):
        folder = getattr(config.stage, key, None)
        to_come = recipe_dir is not None and isinstance(folder, Path) and folder.is_relative_to(recipe_dir)
        if isinstance(folder, Path) and not folder.is_dir() and not to_come:
            raise ConfigError(f"stage.{key}: {folder} is no folder: give one that was trained before")
    find_photos(config.validation.folder, "validation.folder")
    return check_data(config.data, SCALE)


def describe(
    config: TrainConfig, start: TrainConfig | None = None, recipe_dir: Path | None = None
) -> dict[str, str]:
    """The plan of a run as readable lines by topic. Raises ConfigError as `check` does.

    Args:
        config: of the run.
        start: of the run from whose knee it starts, where that has not been trained yet.
        recipe_dir: as for `check`.
    """
    catalogue = check(config, recipe_dir)
    reduced = config.mixed_precision == "bf16"
    # fake tensors have shapes and types, and take no memory
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        network, forward = _skeleton(config, start)
        parameters = sum(p.numel() for p in network.parameters())
        activations = _saved_bytes(network, forward)
    copies = 3 + _MOMENTS[config.optimizer.name]
    fixed = copies * _FLOAT32 * parameters
    steps = config.total_images // config.batch_size
    rate = config.optimizer
    every = config.validation.every_images
    return {
        "network": f"{parameters / 1e6:.2f} M parameters",
        "memory": f"about {_size(fixed + activations)}: weights, gradients, optimizer and average {_size(fixed)}, "
        f"activations {_size(activations)}",
        "data": f"{len(catalogue):,} photos, {catalogue.pixels / 1e6:,.0f} megapixels; "
        f"{len(catalogue.skipped)} broken, {catalogue.too_small} smaller than a crop",
        "batch": f"{config.batch_size} crops of {config.data.lr_crop * SCALE} px (LR {config.data.lr_crop} px)",
        "schedule": f"{config.total_images:,} images in {steps:,} steps at most, to the knee; "
        f"validation every {every:,} images ({config.total_images // every} times)",
        "optimizer": f"{rate.name}, learning rate {rate.lr:g} after {rate.warmup_images:,} images, "
        f"{rate.final_lr:g} at the end",
    }


def _skeleton(config: TrainConfig, start: TrainConfig | None) -> tuple[nn.Module, Callable[[], Tensor]]:
    """The network that a stage trains, and one forward pass of a batch."""
    stage, batch, lr_crop = config.stage, config.batch_size, config.data.lr_crop
    if isinstance(stage, StemStage):
        settings = PredictiveStemConfig(**stage.stem)
        if stage.init is not None and (stage.init / CONFIG_NAME).exists():
            settings = PredictiveStem.parse_config(load_config(stage.init))
        stem = PredictiveStem(settings)
        return stem, lambda: stem(torch.empty(batch, 3, lr_crop, lr_crop)).prediction
    if isinstance(stage, CodecStage):
        from diffusers import AutoencoderDC

        autoencoder = AutoencoderDC(**stage.autoencoder)
        side = lr_crop * SCALE
        return autoencoder, lambda: autoencoder(torch.empty(batch, 3, side, side)).sample
    network = _transformer(stage, start)
    side = lr_crop * SCALE // _compression(stage)
    shape = network.config

    def forward() -> Tensor:
        latent = torch.empty(batch, shape.in_channels, side, side)
        features = torch.empty(batch, shape.lr_channels, side, side)
        prediction: Tensor = network(latent, torch.empty(batch), lr_features=features)
        return prediction

    return network, forward


def _transformer(stage: FlowStage, start: TrainConfig | None) -> LinearSRTransformer:
    if stage.init is not None and (stage.init / CONFIG_NAME).exists():
        config = LinearSRTransformer.parse_config(load_config(stage.init))
    else:
        source = start.stage if start is not None and isinstance(start.stage, FlowStage) else stage
        config = replace(PRESETS[source.preset], **source.network)
    network = LinearSRTransformer(config)
    if stage.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _compression(stage: FlowStage) -> int:
    residual = stage.codec is None and stage.sana is None
    return ResidualCodecConfig().compression if residual else _DC_AE_COMPRESSION


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
