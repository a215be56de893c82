"""Checks of configs before training: their mistakes, each as one line, and an estimate of the cost."""

import os
from collections.abc import Mapping, Sequence
from tempfile import TemporaryFile

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from linearsr.guidance.encoders import EncoderPart
from linearsr.guidance.text import TextGuidance
from linearsr.models.codec import ResidualCodec
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.files import prefixed
from linearsr.training.codec import check_round_trip
from linearsr.training.config import TrainConfig
from linearsr.training.curves import METRICS_FILE, records
from linearsr.training.data import check_data
from linearsr.training.distill import DistillObjective, DistillStage
from linearsr.training.flow import FlowObjective
from linearsr.training.objective import Batch, Computed, Objective
from linearsr.training.parts import Blueprint
from linearsr.training.photo_tags import check_tags, tagged
from linearsr.training.recipe import RecipeConfig, Run, choose, last_flow
from linearsr.training.section import ConfigError
from linearsr.training.validation import validation_photos

_MOMENTS = {"adamw": 2, "came": 1, "muon": 1}
"""Full-size moments that an optimizer stores per trained parameter."""
_FLOAT32 = 4
"""Bytes per value."""


def check(runs: Sequence[Run]) -> dict[str, Objective]:
    """Check all runs of a recipe, or a single run; return the objectives of those that train, as shapes only.

    Raises ConfigError: when a run could not work; one line that names the key and, of several, the run.
    """
    blueprint, objectives = Blueprint(), dict[str, Objective]()
    for name, config in runs:
        stage = config.stage
        with prefixed(f"{name}: " if len(runs) > 1 else "", ConfigError, ConfigError):
            _check_place(config)
            with torch.device("meta"):
                if isinstance(stage, Computed):
                    made = stage.check(blueprint, config.data)
                else:
                    objective = objectives[name] = stage.objective(blueprint)
                    made = objective.parts(objective.network.state_dict())
            if name in objectives:
                _check_training(config, objectives[name])
        blueprint.to_come[config.run_dir] = made
    return objectives


def check_model(recipe: RecipeConfig, runs: Sequence[Run], objectives: Mapping[str, Objective]) -> None:
    """Check that the parts of a recipe's model support the model's settings; `objectives` come from `check`.

    Raises ConfigError: when they do not, or a part is missing; one line that names the key.
    """
    model, parts = PipelineConfig.from_index(recipe.model), recipe.parts
    named = {"lr_stem": parts.lr_stem, "tagger": parts.tagger, "trunk": parts.trunk}
    for key, name in [*named.items(), *(("experts", name) for name in parts.experts.values())]:
        folder = recipe.folder(name)
        if folder and not folder.is_dir() and not any(run.config.run_dir in folder.parents for run in runs):
            raise ConfigError(f"parts.{key}: {folder} is not a folder: give one, or @RUN/knee/PART")
    if recipe.makes_model and model.use_tags and parts.tagger is None:
        raise ConfigError("model.use_tags: the model has no tagger: set parts.tagger to the folder of one")
    flows = last_flow(runs)
    if recipe.makes_model and parts.lr_stem is None and not flows:
        raise ConfigError(
            "parts.lr_stem: a model without experts needs a stem: give its folder, or @RUN/knee/lr_stem"
        )
    if unknown := [number for number in parts.experts if not 0 <= number < len(flows)]:
        raise ConfigError(
            f"parts.experts: {unknown[0]}: the recipe trains {len(flows)} experts, counted from 0"
        )
    last = objectives[flows[-1].name] if flows else None
    if model.mean == "stem" and isinstance(last, FlowObjective) and not isinstance(last.codec, ResidualCodec):
        raise ConfigError(
            "model.mean: the stem's prediction is the zero of the residual codec only: leave it out"
        )


def _check_training(config: TrainConfig, objective: Objective) -> None:
    stage, data = config.stage, config.data
    crop, multiple = data.lr_crop, objective.multiple_of
    if crop % multiple:
        raise ConfigError(f"data.lr_crop: {crop} is not a multiple of {multiple}, as this model needs")
    key = getattr(stage, "codec_key", "stage.autoencoder")
    check_round_trip(key, getattr(objective, "codec", objective.network), crop * objective.scale)
    if isinstance(stage, DistillStage) and stage.judged_crop > crop:
        raise ConfigError(f"stage.judged_crop: {stage.judged_crop} is more than data.lr_crop {crop}")
    photos = config.validation
    validation_photos(photos.folder, objective.scale, photos.max_pictures, photos.least_side)
    catalogue = check_data(data, objective.scale)
    if objective.vocabulary is not None:
        check_tags("stage.guidance", data.tags, objective.vocabulary, catalogue)


def _check_place(config: TrainConfig) -> None:
    """Check that a run folder can be written and does not lie among the photos. Leaves nothing behind."""
    place = config.run_dir
    existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    try:
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError(
            f"run_dir: {place} cannot be written ({error.strerror}): choose another folder"
        ) from None
    sources = [("data.folders", folder) for folder in config.data.folders]
    for key, folder in [*sources, ("validation.folder", config.validation.folder)]:
        if place.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"run_dir: {place} lies in {folder} of {key}, where the pictures of the run would be "
                "taken for photos: choose another folder"
            )


def describe(
    runs: Sequence[Run],
    objectives: Mapping[str, Objective],
    rate: float | None = None,
    stage: str | None = None,
) -> dict[str, dict[str, str]]:
    """Return the plan of each run, or of the runs of a `stage`, by name: readable lines by topic.

    `objectives` come from `check`, and are modified. `rate`, in images per second, gives the duration of a
    run; None: the rate of the run's last step, or of an earlier run of the same kind.
    """
    measured, plans = dict[str, float](), {}
    chosen = {run.name for run in choose(runs, stage)}
    for name, config in runs:
        kind = config.stage.kind
        for record in records(config.run_dir / METRICS_FILE):
            measured[kind] = record.get("images_per_second", measured.get(kind, 0.0))
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
    data, rate, every = config.data, config.optimizer, config.validation.every_images
    hr_crop = data.lr_crop * objective.scale
    catalogue = check_data(data, objective.scale)
    photos = f"{len(catalogue):,} photos"
    if data.best_share < 1:
        photos = f"best {100 * data.best_share:g}% of {photos} by {data.best_by}"
    latents = objective.wants_latents and catalogue.has_latents(hr_crop)
    count, trained = _parameters(objective.network)
    plan = {
        "network": f"{count / 1e6:.2f} M parameters"
        + (f", {trained / 1e6:.2f} M of them trained" if trained < count else ""),
        "memory": _memory(config, objective),
        "data": f"{photos}, {catalogue.areas.sum() / 1e6:,.0f} megapixels; {len(catalogue.skipped)} broken, "
        f"{catalogue.too_small} smaller than a crop" + ("; latents from the shards" if latents else ""),
        "batch": f"{config.batch_size} crops of {hr_crop} px (LR {data.lr_crop} px)",
        "schedule": f"{config.total_images:,} images in {config.total_images // config.batch_size:,} steps"
        + (" at most, to the knee" if config.stop_at_knee else "")
        + f"; validation every {every:,} images ({config.total_images // every} times)",
        "optimizer": f"{rate.name}, learning rate {rate.lr:g} after {rate.warmup_images:,} images, "
        f"{rate.final_lr:g} at the end",
    }
    if (known := objective.vocabulary) is not None and data.tags is not None:
        count = tagged(data.tags, known.tags, catalogue)
        plan["tags"] = (
            f"{count:,} of {len(catalogue):,} photos have some of the {len(known.tags):,} known tags"
        )
    return plan


def _parameters(*modules: nn.Module) -> tuple[int, int]:
    """Return the number of parameters, and how many of them are trained."""
    found = [parameter for module in modules for parameter in module.parameters()]
    return sum(p.numel() for p in found), sum(p.numel() for p in found if p.requires_grad)


def _memory(config: TrainConfig, objective: Objective) -> str:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    count, trained = _parameters(objective.network)
    frozen = _FLOAT32 * _parameters(*objective.frozen())[0]
    after = ""
    if isinstance(part := getattr(objective, "guidance", None), EncoderPart):
        encoder = sum(file.stat().st_size for file in part.encoder_files())
        if not encoder:
            after = "; without the encoder of stage.guidance"
        elif isinstance(part, TextGuidance) and part.config.separate:
            after = f"; before the first step, the text encoder alone, {_size(encoder)}"
        else:
            frozen += encoder
    share = max(1, config.batch_size // (processes * config.accumulation))
    kinds = {
        # all weights have an average, but only trained ones have gradients and moments
        "weights, gradients, optimizer, average": _FLOAT32
        * (2 * count + (1 + _MOMENTS[config.optimizer.name]) * trained),
        "frozen parts": frozen,
        "activations": _activations(config, objective, share),
    }
    return (
        f"about {_size(sum(kinds.values()))}{' a process' if processes > 1 else ''}: "
        + ", ".join(f"{kind} {_size(size)}" for kind, size in kinds.items() if size)
        + after
    )


def _activations(config: TrainConfig, objective: Objective, count: int) -> int:
    """Return the bytes that the loss of `count` samples keeps for the backward pass, besides the weights."""
    side, hr_side = config.data.lr_crop, config.data.lr_crop * objective.scale
    tags = 0 if objective.vocabulary is None else len(objective.vocabulary.tags)
    if isinstance(objective, FlowObjective):
        objective.guidance = None  # encoders need words, and fake tensors hold none
    if isinstance(objective, DistillObjective):
        objective.teacher = objective.first = None  # they run without gradients and keep nothing
    # fake tensors have shapes and types, but take no memory
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16"):
        for module in (objective.network, *objective.frozen()):
            module._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]
        lr, hr = torch.empty(count, 3, side, side), torch.empty(count, 3, hr_side, hr_side)
        batch = Batch(lr, hr, torch.empty(count, tags), list(range(count)))
        weights = {parameter.untyped_storage()._cdata for parameter in objective.network.parameters()}
        kept: dict[int, torch.UntypedStorage] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage  # keep it alive: the number of a freed one could be reused
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            objective.loss(objective.network, batch)
    return sum(storage.nbytes() for number, storage in kept.items() if number not in weights)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
