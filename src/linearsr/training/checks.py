"""What of a config can be known to fail before anything is trained: each mistake as one line that names its key."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from linearsr.images.io import ImageError, read_size
from linearsr.models.codec import DeepCompressionCodec
from linearsr.models.lr_stem import STEMS, PredictiveStem
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.checkpoints import HUB_ID
from linearsr.training.blueprint import Blueprint, UnknownCodec
from linearsr.training.catalogue import Catalogue
from linearsr.training.codec import CodecStage
from linearsr.training.config import Stage, TrainConfig, check_run_dir
from linearsr.training.data import check_data, check_validation_size
from linearsr.training.flow import FlowObjective, FlowStage
from linearsr.training.objective import Computed, Objective
from linearsr.training.photo_tags import name_in, read_tags
from linearsr.training.recipe import RecipeConfig, Run, last_flow
from linearsr.training.section import ConfigError, require
from linearsr.training.sources import find_photos
from linearsr.training.tagger import TaggerStage


def check(runs: Sequence[Run]) -> dict[str, Objective]:
    """Check all runs of a recipe, or the only one.

    Returns:
        The objective of each run that trains, by its name; only shapes are known of it.

    Raises:
        ConfigError: one line that names the key, and the run if there are several.
    """
    blueprint = Blueprint(run.config for run in runs)
    objectives = {}
    for place, run in enumerate(runs):
        try:
            check_run_dir(run.config.run_dir)
            _check_apart(run.config)
            _check_folders(run.config.stage, [earlier.config.run_dir for earlier in runs[:place]])
            if isinstance(run.config.stage, Computed):
                blueprint.parts_of(run.config.stage)
            else:
                objectives[run.name] = _check_training(run.config, blueprint)
        except ConfigError as error:
            raise ConfigError(f"{run.name}: {error}") if len(runs) > 1 else error from None
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
    if not recipe.makes_model or (model.clean_steps is None and model.mean != "stem"):
        return
    blueprint = Blueprint(run.config for run in runs)
    objective = blueprint.objective(last_flow(runs)[-1].config.stage)
    assert isinstance(objective, FlowObjective)
    stem = objective.stem
    if parts.lr_stem is not None:
        stem = blueprint.read("parts.lr_stem", recipe.folder(parts.lr_stem), STEMS, "a stem")
    tells_strength = isinstance(stem, PredictiveStem) and stem.config.strength_channels
    if model.clean_steps is not None and not tells_strength:
        raise ConfigError(
            "model.clean_steps: the stem does not tell how degraded an image is: leave it out, or add a stage "
            "of kind strength"
        )
    if model.mean == "stem" and isinstance(objective.codec, DeepCompressionCodec):
        raise ConfigError(
            "model.mean: the stem's prediction is the zero of the residual codec only: leave it out"
        )


def _check_training(config: TrainConfig, blueprint: Blueprint) -> Objective:
    stage = config.stage
    _check_extras(stage)
    objective = blueprint.objective(stage)
    crop, multiple = config.data.lr_crop, objective.multiple_of
    if crop % multiple and not isinstance(getattr(objective, "codec", None), UnknownCodec):
        raise ConfigError(f"data.lr_crop: {crop} is no multiple of {multiple}, as this model needs")
    validation = config.validation
    _check_validation(validation.folder, validation.max_pictures, objective.scale, validation.least_side)
    catalogue = check_data(config.data, objective.scale)
    if isinstance(stage, TaggerStage):
        _check_tagger(config)
    if objective.vocabulary is not None:
        key = "stage.kind" if isinstance(stage, TaggerStage) else "stage.guidance"
        _check_tags(key, config.data.tags, catalogue)
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


def _check_folders(stage: Stage, to_come: Sequence[Path]) -> None:
    """Folders of parts must be there, or be written by runs that come before this one."""
    for key, name, from_hub in _folders(stage):
        folder = Path(name)
        known = folder.is_dir() or any(run_dir in folder.parents for run_dir in to_come)
        if not known and not (from_hub and HUB_ID.fullmatch(name)):
            hint = "a folder, or a hub id as owner/name" if from_hub else "one that was trained before"
            raise ConfigError(f"stage.{key}: {name} is no folder: give {hint}")


def _folders(stage: Stage) -> Iterator[tuple[str, str, bool]]:
    """(key, what it says, whether that may be a hub id) of each part that is read from somewhere."""
    guidance = stage.guidance if isinstance(stage, FlowStage) else None
    for key in ("part", "features"):
        folder = getattr(guidance, key, None)
        if folder is not None:
            yield f"guidance.{key}", str(folder), False
    for key in ("init", "stem", "codec", "sana", "discriminator", "teacher", "rollout", "before", "after"):
        value = getattr(stage, key, None)
        if isinstance(value, str | Path):
            yield key, str(value), key in ("codec", "sana") or isinstance(stage, CodecStage)


def _check_extras(stage: Stage) -> None:
    if isinstance(stage, CodecStage):
        require("diffusers", "stage.kind")
    if isinstance(stage, FlowStage):
        if stage.lora is not None:
            require("peft", "stage.lora")
        if stage.sana is not None:
            require("diffusers", "stage.sana")


def _check_tagger(config: TrainConfig) -> None:
    if config.batch_size == 1:
        raise ConfigError("batch_size: the batch norm of a tagger needs at least 2")
    if config.data.degrade_on == "device":
        raise ConfigError("data.degrade_on: photos for a tagger are degraded by the workers: leave it out")


def _check_tags(key: str, path: Path | None, catalogue: Catalogue) -> None:
    """A network cannot learn what nothing is said of."""
    if path is None:
        raise ConfigError(f"{key}: needs the tags of the photos: set data.tags to a JSON file")
    photos = [Path(catalogue[number].name) for number in range(len(catalogue))]
    tags = read_tags(path)
    if not any(name_in(path, photo) in tags for photo in photos):
        raise ConfigError(
            f"data.tags: {path} names none of the photos: write their paths relative to {path.parent}, "
            f"e.g. {name_in(path, photos[0])!r}"
        )


@cache
def _check_validation(folder: Path, max_pictures: int, scale: int, least_side: int) -> None:
    """Every photo counts: what is measured on is never changed silently."""
    for path in find_photos(folder, "validation.folder")[:max_pictures]:
        try:
            size = read_size(path, str(path))
        except ImageError as error:
            raise ConfigError(f"validation.folder: {error}") from None
        check_validation_size(path, size, scale, least_side)
