"""What of a config can be known before anything is trained: its mistakes, each as one line, and what it would take."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.text import TextGuidance
from linearsr.models.codec import DeepCompressionCodec
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.checkpoints import HUB_ID
from linearsr.training.blueprint import Blueprint, UnknownCodec
from linearsr.training.codec import CodecStage, check_round_trip
from linearsr.training.config import TrainConfig, check_run_dir
from linearsr.training.data import check_data
from linearsr.training.distill import DistillObjective, DistillStage
from linearsr.training.flow import FlowObjective
from linearsr.training.objective import Batch, Computed, Objective, Trained
from linearsr.training.photo_tags import check_tags, read_vocabulary, tagged
from linearsr.training.recipe import RecipeConfig, Run, choose, last_flow
from linearsr.training.run_folder import records
from linearsr.training.section import ConfigError
from linearsr.training.tagger import TaggerStage
from linearsr.training.validation import validation_photos

_MOMENTS = {"adamw": 2, "came": 1, "muon": 1}
_FLOAT32 = 4


def check(runs: Sequence[Run]) -> dict[str, Objective]:
    """Check all runs of a recipe, or the only one.

    Returns:
        The objective of each run that trains, by its name; only shapes are known of it.

    Raises:
        ConfigError: one line that names the key, and the run if there are several.
    """
    blueprint, objectives = Blueprint(), {}
    for name, config in runs:
        try:
            check_run_dir(config.run_dir)
            _check_apart(config)
            if isinstance(config.stage, Computed):
                with torch.device("meta"):
                    config.stage.shapes(blueprint)
                if isinstance(config.stage, TaggerStage):
                    if config.data.shards:
                        raise ConfigError(
                            "data.shards: a tagger learns from photos in data.folders: leave it out"
                        )
                    known = read_vocabulary(config.stage.vocabulary, "stage.vocabulary")
                    check_tags("stage.kind", config.data.tags, known, check_data(config.data, 4))
            else:
                objectives[name] = _check_training(config, blueprint)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") if len(runs) > 1 else error from None
        blueprint.add(config.run_dir, config.stage)
    return objectives


def check_model(recipe: RecipeConfig, runs: Sequence[Run]) -> None:
    """The parts that a recipe ends with must be able to do what its model is set to.

    Raises:
        ConfigError: one line that names the key.
    """
    model, parts = PipelineConfig.from_index(recipe.model), recipe.parts
    named = {"lr_stem": parts.lr_stem, "tagger": parts.tagger, "trunk": parts.trunk}
    for key, name in [*named.items(), *(("experts", name) for name in parts.experts.values())]:
        folder = None if name is None else recipe.folder(name)
        if folder and not folder.is_dir() and not any(run.config.run_dir in folder.parents for run in runs):
            raise ConfigError(f"parts.{key}: {folder} is no folder: give one, or @RUN/knee/PART")
    if recipe.makes_model and model.use_tags and parts.tagger is None:
        raise ConfigError("model.use_tags: the model has no tagger: set parts.tagger to the folder of one")
    flows = last_flow(runs)
    if recipe.makes_model and parts.lr_stem is None and not flows:
        raise ConfigError(
            "parts.lr_stem: a model without experts needs a stem: give its folder, or @RUN/knee/lr_stem"
        )
    if not flows or model.mean != "stem":
        return
    blueprint = Blueprint()
    for run in runs:
        blueprint.add(run.config.run_dir, run.config.stage)
    stage = flows[-1].config.stage
    assert isinstance(stage, Trained)
    with torch.device("meta"):
        objective = stage.objective(blueprint)
    assert isinstance(objective, FlowObjective)
    if isinstance(objective.codec, DeepCompressionCodec):
        raise ConfigError(
            "model.mean: the stem's prediction is the zero of the residual codec only: leave it out"
        )


def _check_training(config: TrainConfig, blueprint: Blueprint) -> Objective:
    stage, data = config.stage, config.data
    assert isinstance(stage, Trained)
    with torch.device("meta"):
        objective = stage.objective(blueprint)
    crop, multiple = data.lr_crop, objective.multiple_of
    if crop % multiple and not isinstance(getattr(objective, "codec", None), UnknownCodec):
        raise ConfigError(f"data.lr_crop: {crop} is no multiple of {multiple}, as this model needs")
    key, codec = (
        getattr(stage, "codec_key", "stage.autoencoder"),
        getattr(objective, "codec", objective.network),
    )
    check_round_trip(key, codec, -(-crop // multiple) * multiple * objective.scale)
    if isinstance(stage, DistillStage) and stage.judged_crop > crop:
        raise ConfigError(f"stage.judged_crop: {stage.judged_crop} is more than data.lr_crop {crop}")
    photos = config.validation
    validation_photos(photos.folder, objective.scale, photos.max_pictures, photos.least_side)
    catalogue = check_data(data, objective.scale)
    if objective.vocabulary is not None:
        check_tags("stage.guidance", data.tags, objective.vocabulary, catalogue)
    return objective


def _check_apart(config: TrainConfig) -> None:
    """A run writes pictures, which must not become photos."""
    sources = [("data.folders", folder) for folder in config.data.folders]
    for key, folder in [*sources, ("validation.folder", config.validation.folder)]:
        if config.run_dir.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"run_dir: {config.run_dir} lies in {folder} of {key}, where the pictures of the run would be "
                "taken for photos: choose another folder"
            )


def describe(
    runs: Sequence[Run], rate: float | None = None, stage: str | None = None
) -> dict[str, dict[str, str]]:
    """The plan of each run, or of those of a `stage`, by its name, as readable lines by topic.

    Raises ConfigError as `check` does, for all runs.

    `rate` in images per second tells how long a run takes; None: that of its last step, or of a run of its kind before.
    """
    objectives, measured, plans = check(runs), dict[str, float](), {}
    chosen = {run.name for run in choose(runs, stage)}
    for name, config in runs:
        kind = config.stage.kind
        paces = [record["images_per_second"] for record in records(config.run_dir) if "grad_norm" in record]
        measured |= {kind: paces[-1]} if paces else {}
        if name not in chosen:
            continue
        if name not in objectives:
            plans[name] = {"network": f"{kind} of finished parts, without training"}
            continue
        plans[name] = _describe(config, objectives[name])
        pace, origin = (measured.get(kind), "measured") if rate is None else (rate, "--rate")
        if pace:
            hours = config.total_images / pace / 3600
            plans[name]["time"] = f"{hours:,.1f} hours at {pace:g} images per second ({origin})"
    return plans


def _describe(config: TrainConfig, objective: Objective) -> dict[str, str]:
    scale, data, rate = objective.scale, config.data, config.optimizer
    catalogue = check_data(data, scale)
    share, by = (
        (f"best {100 * data.best_share:g}% of ", f" by {data.best_by}") if data.best_share < 1 else ("", "")
    )
    with_latents = objective.wants_latents and catalogue.has_latents(data.lr_crop * scale)
    latents = "; latents from the shards" if with_latents else ""
    every = config.validation.every_images
    tags = dict[str, str]()
    if (known := objective.vocabulary) is not None and data.tags is not None:
        count = tagged(data.tags, known.tags, catalogue)
        tags["tags"] = (
            f"{count:,} of {len(catalogue):,} photos have some of the {len(known.tags):,} known tags"
        )
    end = " at most, to the knee" if config.stop_at_knee else ""
    network, memory = _size_up(config, objective)
    return {
        "network": network,
        "memory": memory,
        "data": f"{share}{len(catalogue):,} photos{by}, {catalogue.areas.sum() / 1e6:,.0f} megapixels; "
        f"{len(catalogue.skipped)} broken, {catalogue.too_small} smaller than a crop{latents}",
        **tags,
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
    encoder, passing = _encoder(objective)
    frozen += 0 if passing else encoder
    unknown = ", ".join(_unknown(config, objective))
    activations = _activations(
        config, objective, max(1, config.batch_size // (processes * config.accumulation))
    )
    # all weights and their average, but gradients and moments only of what is trained
    fixed = _FLOAT32 * (2 * count + (1 + _MOMENTS[config.optimizer.name]) * trained)
    memory = f"about {_size(fixed + frozen + activations)}" + (" a process" if processes > 1 else "")
    memory += f": weights, gradients, optimizer, average {_size(fixed)}, "
    memory += f"frozen parts {_size(frozen)}, " if frozen else ""
    memory += f"activations {_size(activations)}"
    return (
        f"{count / 1e6:.2f} M parameters"
        + (f", {trained / 1e6:.2f} M of them trained" if trained < count else ""),
        memory
        + (
            f"; before the first step, the text encoder alone, {_size(encoder)}"
            if encoder and passing
            else ""
        )
        + (f"; without {unknown}" if unknown else ""),
    )


def _frozen(objective: Objective) -> list[nn.Module]:
    """What lies beside the network that is trained."""
    own = {id(module) for module in objective.network.modules()}
    return [part for part in vars(objective).values() if isinstance(part, nn.Module) and id(part) not in own]


def _encoder(objective: Objective) -> tuple[int, bool]:
    """Bytes of the encoder that guides, as far as it is on this machine, and whether it is let go before training."""
    part = getattr(objective, "guidance", None)
    if not isinstance(part, EncoderPart):
        return 0, False
    passing = isinstance(part, TextGuidance) and part.config.separate
    return sum(file.stat().st_size for file in part.encoder_files()), passing


def _unknown(config: TrainConfig, objective: Objective) -> list[str]:
    """The parts that are not counted."""
    stage, found = config.stage, []
    if isinstance(stage, CodecStage) and stage.init is not None and HUB_ID.fullmatch(stage.init):
        found.append(f"knowing {stage.init}")
    if isinstance(getattr(objective, "codec", None), UnknownCodec):
        found.append("the codec")
    part = getattr(objective, "guidance", None)
    if isinstance(part, EncoderPart) and not part.encoder_files():
        found.append("the encoder of stage.guidance")
    return found


def _activations(config: TrainConfig, objective: Objective, count: int) -> int:
    """Bytes that the loss of `count` samples keeps for the backward pass, beside the weights."""
    side = -(-config.data.lr_crop // objective.multiple_of) * objective.multiple_of
    hr_side = side * objective.scale
    tags = 0 if objective.vocabulary is None else len(objective.vocabulary.tags)
    if isinstance(objective, FlowObjective):
        objective.guidance = None  # encoders look at words, of which there are none
    if isinstance(objective, DistillObjective):
        objective.teacher = objective.first = None  # their walks keep nothing
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
