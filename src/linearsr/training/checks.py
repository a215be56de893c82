"""What of a config can be known to fail before anything is built: each mistake as one line that names its key."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from linearsr.guidance.registry import GUIDANCES
from linearsr.guidance.tags import TagGuidance
from linearsr.guidance.text import TextGuidance
from linearsr.images.io import ImageError, read_size
from linearsr.models.lr_stem import PredictiveStemConfig, StridedStemConfig
from linearsr.models.transformer_config import TransformerConfig
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.checkpoints import CONFIG_NAME, HUB_ID, CheckpointError, class_in
from linearsr.training.catalogue import Catalogue
from linearsr.training.codec import CodecStage
from linearsr.training.config import TrainConfig, check_run_dir
from linearsr.training.data import check_data, check_validation_size
from linearsr.training.extras import require
from linearsr.training.flow import FlowStage
from linearsr.training.photo_tags import name_in, read_tags, read_vocabulary
from linearsr.training.recipe import RecipeConfig, Run
from linearsr.training.section import ConfigError
from linearsr.training.shapes import CodecShape, Shapes, Stage, StemShape, stem_channels, stem_stride
from linearsr.training.sources import find_photos
from linearsr.training.tagger import TaggerStage


def check(runs: Sequence[Run]) -> Shapes:
    """Check all runs of a recipe, or the only one; returns the shapes of their parts.

    Raises:
        ConfigError: one line that names the key, and the run if there are several.
    """
    shapes = Shapes(run.config for run in runs)
    for place, run in enumerate(runs):
        try:
            _check(run.config, [earlier.config.run_dir for earlier in runs[:place]], shapes)
        except ConfigError as error:
            raise ConfigError(f"{run.name}: {error}") if len(runs) > 1 else error from None
    return shapes


def check_model(recipe: RecipeConfig, runs: Sequence[Run]) -> None:
    """The parts that a recipe ends with must be able to do what its model is set to.

    Raises:
        ConfigError: one line that names the key.
    """
    stage = runs[-1].config.stage
    if not recipe.makes_model or not isinstance(stage, FlowStage):
        return
    shapes, model = Shapes(run.config for run in runs), PipelineConfig.from_index(recipe.model)
    stem, codec = shapes.stem(stage), shapes.codec(stage)
    tells_strength = stem is None or (isinstance(stem, PredictiveStemConfig) and stem.strength_channels)
    if model.clean_steps is not None and not tells_strength:
        raise ConfigError(
            "model.clean_steps: the stem does not tell how degraded an image is: leave it out, or fit that in "
            "stage.stem with python -m linearsr.training.strength"
        )
    if model.mean == "stem" and codec is not None and codec.autoencoder is not None:
        raise ConfigError(
            "model.mean: the stem's prediction is the zero of the residual codec only: leave it out"
        )


def _check(config: TrainConfig, to_come: Sequence[Path], shapes: Shapes) -> None:
    check_run_dir(config.run_dir)
    _check_apart(config)
    _check_folders(config.stage, to_come)
    _check_extras(config.stage, shapes)
    if isinstance(config.stage, FlowStage):
        _check_network(config.stage, shapes)
    multiple, scale = shapes.multiple_of(config.stage), shapes.scale(config.stage)
    if config.data.lr_crop % multiple:
        raise ConfigError(
            f"data.lr_crop: {config.data.lr_crop} is no multiple of {multiple}, as this model needs"
        )
    _check_validation(
        config.validation.folder, config.validation.max_pictures, scale, config.validation.least_side
    )
    catalogue = check_data(config.data, scale)
    if isinstance(config.stage, FlowStage) and _wants_tags(config.stage):
        _check_tags("stage.guidance", config.data.tags, catalogue)
    if isinstance(config.stage, TaggerStage):
        _check_tagger(config, config.stage)
        _check_tags("stage.kind", config.data.tags, catalogue)


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
    for key in ("init", "stem", "codec", "sana", "discriminator", "teacher", "rollout"):
        value = getattr(stage, key, None)
        if isinstance(value, str | Path):
            yield key, str(value), key in ("codec", "sana") or isinstance(stage, CodecStage)


def _check_extras(stage: Stage, shapes: Shapes) -> None:
    if isinstance(stage, CodecStage):
        require("diffusers", "stage.kind")
    if not isinstance(stage, FlowStage):
        return
    if stage.lora is not None:
        require("peft", "stage.lora")
    codec = shapes.codec(stage)
    if codec is None or codec.autoencoder is not None:
        require("diffusers", "stage.sana" if stage.codec is None else "stage.codec")


def _check_network(stage: FlowStage, shapes: Shapes) -> None:
    """The network must take what its stem and its codec give."""
    network, stem, codec = shapes.transformer(stage), shapes.stem(stage), shapes.codec(stage)
    if codec is not None and stem is not None:
        _check_grid(stage, stem, codec)
    if network is None:
        return
    needed: dict[str, int] = {}
    if codec is not None:
        needed |= {"in_channels": codec.channels, "out_channels": codec.channels}
    if stem is not None:
        needed["lr_channels"] = stem_channels(stem)
    _check_guidance(stage, network)
    place = "stage.network" if stage.init is None else "stage.init"
    for key, channels in needed.items():
        if getattr(network, key) != channels:
            giver = "stem" if key == "lr_channels" else "codec"
            raise ConfigError(
                f"{place}: {key} is {getattr(network, key)}, but the {giver} gives {channels} channels"
            )


def _check_guidance(stage: FlowStage, network: TransformerConfig) -> None:
    """The network must take the tokens of its guidance, and have some of its own where there are none."""
    if stage.guidance is None:
        return
    if stage.guidance.vocabulary is not None:
        read_vocabulary(stage.guidance.vocabulary, "stage.guidance.vocabulary")
    part = stage.guidance.part
    # a sample whose tokens are all masked sees them all, unless there are null tokens in their place
    if not network.num_null_tokens:
        raise ConfigError(
            "stage.guidance: the network has no null tokens for photos of which nothing is told: "
            "set num_null_tokens in stage.network"
        )
    if part is None or not part.is_dir():
        return  # it is trained along, or still to be trained with a network before this one
    channels = network.caption_channels
    try:
        kind, raw = class_in(part, GUIDANCES, "guidance")
        given = kind.parse_config(raw, part / CONFIG_NAME).channels
    except CheckpointError as error:
        raise ConfigError(f"stage.guidance.part: {error}") from None
    if kind is TextGuidance and stage.guidance.vocabulary is None:
        raise ConfigError("stage.guidance: a TextGuidance needs the vocabulary of the tags too")
    if given != channels:
        raise ConfigError(
            f"stage.guidance.part: {part} gives {given} channels, but the network's caption_channels is {channels}"
        )


def _check_tagger(config: TrainConfig, stage: TaggerStage) -> None:
    read_vocabulary(stage.vocabulary, "stage.vocabulary")
    if config.batch_size == 1:
        raise ConfigError("batch_size: the batch norm of a tagger needs at least 2")
    if config.data.degrade_on == "device":
        raise ConfigError("data.degrade_on: photos for a tagger are degraded by the workers: leave it out")


def _wants_tags(stage: FlowStage) -> bool:
    """Whether the photos must have tags, as far as that is known yet."""
    guidance = stage.guidance
    if guidance is None or guidance.features is not None:
        return False
    if guidance.part is None or not guidance.part.is_dir():
        return guidance.vocabulary is not None
    return class_in(guidance.part, GUIDANCES, "guidance")[0] in (TagGuidance, TextGuidance)


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


def _check_grid(stage: FlowStage, stem: StemShape, codec: CodecShape) -> None:
    """Stem and codec must have one grid, and a codec of residuals needs something that these are of."""
    if stage.stem is None:
        if codec.compression <= stem.scale:
            raise ConfigError(
                f"stage.codec: compresses {codec.compression} times, but an LR stem that is trained along needs "
                f"more than {stem.scale}"
            )
        return
    if codec.autoencoder is None and isinstance(stem, StridedStemConfig):
        raise ConfigError(f"stage.stem: {stage.stem} predicts no image, which the residual codec needs")
    if stem.scale * stem_stride(stem) != codec.compression:
        raise ConfigError(
            f"stage.stem: its features lie {stem.scale * stem_stride(stem)} HR pixels apart, the codec's latents "
            f"{codec.compression}: they need one grid"
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
