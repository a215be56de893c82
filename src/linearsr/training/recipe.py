"""A recipe describes a whole training in one file: stages in order, each started from the previous knee.

    codec (or stem) -> pretrain -> experts, one run per span -> sft, one run per span -> others -> model

The settings of a stage override those of `common`, which override what it inherits from earlier stages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from linearsr.flow.partition import PUBLISHED, Partition
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.files import prefixed
from linearsr.training.config import TrainConfig, parse_settings
from linearsr.training.flow import FlowStage
from linearsr.training.run_folder import KNEE_FOLDER, knee_record
from linearsr.training.section import ConfigError, Section, check_fields
from linearsr.training.state import latest_checkpoint

STAGES = ("codec", "stem", "pretrain", "experts", "sft")
_ONE_RUN_AN_EXPERT = ("experts", "sft")
_FLOW = ("pretrain", "experts", "sft")
"""Stages that inherit the `stage` settings of earlier ones, except those of `_ONLY_AT_THE_START`."""
_ONLY_AT_THE_START = ("init", "network", "detail_blocks")
_ONCE = "detail_blocks"
"""Setting that replaces the output head: in `common` it applies only to the first of these stages."""
_COMPUTED = ("blend", "tagger")
"""Kinds of stages that take no training steps and need no `total_images`."""


def none_is_empty(value: Any) -> Any:
    """Return an empty mapping for None, which YAML gives for an empty section."""
    return {} if value is None else value


def _cleaned(settings: dict[str, Any]) -> dict[str, Any]:
    # null means the default for a known key; an unknown key is kept, so that it is reported
    known = TrainConfig.model_fields
    settings = {key: value for key, value in settings.items() if value is not None or key not in known}
    stage = settings.get("stage", {})
    if not isinstance(stage, dict):
        raise ValueError(f"stage: {stage} is a value, not a section")
    for key in ("run_dir", "stage.boundaries", "stage.expert"):
        if key.removeprefix("stage.") in (stage if "." in key else settings):
            raise ValueError(f"{key}: the recipe sets this for each run: leave it out")
    return settings


StageSettings = Annotated[dict[str, Any], BeforeValidator(none_is_empty), AfterValidator(_cleaned)]
"""Settings of one stage or of `common`: those of a run, without the ones that the recipe sets itself."""


class ModelParts(Section):
    """Parts of the model besides those of the last flow stage; `@RUN/...` means the recipe's folder."""

    lr_stem: str | None = None
    experts: dict[int, str] = Field({})
    """Number of a trained expert -> folder of its replacement; 0 is the expert for the most noise."""
    tagger: str | None = None
    trunk: str | None = None


class RecipeConfig(Section):
    """Settings of a recipe. A stage has those of a run, without `run_dir`; `common` holds its defaults."""

    run_dir: Path
    boundaries: tuple[float, ...] = PUBLISHED.boundaries
    """Partition of the trajectory into spans, one per expert: ascending times."""
    common: StageSettings = Field({})
    """Default settings of all stages."""
    stages: Annotated[dict[str, StageSettings], BeforeValidator(none_is_empty)]
    """Name -> settings. First run `codec`, `stem`, `pretrain`, `experts`, `sft`, in this order, then others
    as written, with any name and a `stage.kind`. In `stage`, `@RUN/knee/PART` is a part of another run."""
    parts: ModelParts = ModelParts()
    model: Annotated[dict[str, Any], BeforeValidator(none_is_empty)] = Field({})
    """Settings of the resulting model: fields of `PipelineConfig`."""

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        unknown = sorted(
            name
            for name, settings in stages.items()
            if name not in STAGES and ("kind" not in settings.get("stage", {}) or not name.isidentifier())
        )
        if unknown or not stages:
            what = f"unknown stage {unknown[0]!r}" if unknown else "there is none"
            raise ValueError(f"{what}: choose from {', '.join(STAGES)}")
        return stages

    @model_validator(mode="after")
    def _fits(self) -> "RecipeConfig":
        Partition(self.boundaries)
        if "pretrain" not in self.stages and {"experts", "sft"} & set(self.stages):
            raise ValueError("stages: experts and sft start from the knee of pretrain, which is missing")
        with prefixed("model: ", ValueError, (TypeError, ValueError)):
            PipelineConfig.from_index(self.model)
        check_fields(PipelineConfig, self.model, "model")
        return self

    def folder(self, name: str | None) -> Path | None:
        """Return the folder that a path or `@RUN/...` refers to; None for None."""
        return None if name is None else Path(in_recipe(self.run_dir, name))

    @property
    def makes_model(self) -> bool:
        """Whether the recipe produces a model; a stem or a codec alone is not one."""
        kinds = (settings.get("stage", {}).get("kind") for settings in self.stages.values())
        draws = "pretrain" in self.stages or not {"flow", "distill"}.isdisjoint(kinds)
        return draws or self.parts.trunk is not None


class Run(NamedTuple):
    """One run of a recipe."""

    name: str
    """The name, e.g. "pretrain" or "experts/2", and also the path inside the recipe's folder."""
    config: TrainConfig

    @property
    def knee(self) -> Path:
        """Folder of the weights at the knee, once the run is finished."""
        return self.config.run_dir / KNEE_FOLDER

    @property
    def finished(self) -> bool:
        """Whether the knee is known and the run was trained as far as its config asks."""
        knee = knee_record(self.config.run_dir)
        if knee is None:
            return False
        stopped = self.config.stop_at_knee and knee.get("confirmed", False)
        return bool(stopped or knee["trained_images"] > self.config.total_images - self.config.batch_size)

    @property
    def begun(self) -> bool:
        """Whether the run has a checkpoint or a knee."""
        started = latest_checkpoint(self.config.run_dir / "checkpoints") is not None
        return started or knee_record(self.config.run_dir) is not None


def plan(recipe: RecipeConfig, where: str) -> list[Run]:
    """Return all runs of a recipe in order.

    Raises ConfigError: when a setting is invalid; one line that names `where`, the stage and the key.
    """
    runs = []
    count = Partition(recipe.boundaries).num_experts
    others = [name for name in recipe.stages if name not in STAGES]
    for stage in [*(name for name in STAGES if name in recipe.stages), *others]:
        for expert in range(count) if stage in _ONE_RUN_AN_EXPERT else [None]:
            name = stage if expert is None else f"{stage}/{expert}"
            raw = {**_settings_of(recipe, stage, expert), "run_dir": recipe.run_dir / name}
            sources = {f"stages.{stage}": recipe.stages[stage], "common": recipe.common}
            runs.append(Run(name, parse_settings(TrainConfig, raw, where, sources)))
    return runs


def choose(runs: Sequence[Run], only: str | None = None) -> list[Run]:
    """Return the run or the runs of the stage `only`, or all. Raises ConfigError: when there is none."""
    chosen = [run for run in runs if only is None or run.name == only or run.name.startswith(f"{only}/")]
    if not chosen:
        raise ConfigError(f"--stage {only}: choose from {', '.join(run.name for run in runs)}")
    return chosen


def last_flow(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the last of `pretrain`, `experts` and `sft`, or else of the last flow, if any."""
    flows = [run for run in runs if isinstance(run.config.stage, FlowStage)]
    flows = [run for run in flows if run.name.partition("/")[0] in _FLOW] or flows
    return [run for run in flows if run.name.partition("/")[0] == flows[-1].name.partition("/")[0]]


def in_recipe(folder: Path, value: Any) -> Any:
    """Return `value` with each `@RUN/...` replaced by a path in the recipe's folder."""
    if isinstance(value, dict):
        return {key: in_recipe(folder, inner) for key, inner in value.items()}
    return str(folder / value[1:]) if isinstance(value, str) and value.startswith("@") else value


def _settings_of(recipe: RecipeConfig, stage: str, expert: int | None) -> dict[str, Any]:
    """Return the settings of one run, without its folder; `expert` is None if the stage has only one run."""
    common, stages, folder = recipe.common, recipe.stages, recipe.run_dir
    merged = _merged(common, stages[stage])
    if stage not in _FLOW:
        own: dict[str, Any] = in_recipe(folder, {"kind": stage, **merged.get("stage", {})})
        if own["kind"] in _COMPUTED:
            merged = {"total_images": merged.get("batch_size", 16), **merged, "stop_at_knee": False}
        return {**merged, "stage": own}

    def knee(run: str, part: str) -> str:
        return str(folder / run / KNEE_FOLDER / part)

    # settings of a flow stage in rising priority: codec and stem, `common`, earlier flow stages, its own
    flow: dict[str, Any] = {"kind": "flow"}
    if "codec" in stages:
        flow["codec"] = knee("codec", "codec")
    if "stem" in stages:
        flow["stem"] = knee("stem", "lr_stem")
    flow |= common.get("stage", {})
    before = [name for name in _FLOW[: _FLOW.index(stage)] if name in stages]
    if before:
        flow.pop(_ONCE, None)
        for name in before:
            kept = stages[name].get("stage", {}).items()
            flow |= {key: value for key, value in kept if key not in _ONLY_AT_THE_START}
        # a stem that was trained jointly with the network is frozen from then on: the experts share it
        if flow.get("stem") is None:
            flow["stem"] = knee("pretrain", "lr_stem")
        # so is guidance that was trained jointly
        guidance = flow.get("guidance")
        if guidance and guidance.get("part") is None:
            kept = {key: value for key, value in guidance.items() if key not in ("vocabulary", "features")}
            flow["guidance"] = {**kept, "part": knee("pretrain", "guidance")}
        starts = [before[-1]]
        if before[-1] == "experts":
            starts = [f"experts/{index}" for index in range(Partition(recipe.boundaries).num_experts)]
        networks = [knee(start, "transformer") for start in starts]
        flow |= {"init": networks[(expert or 0) % len(networks)], "others": networks}
    flow |= stages[stage].get("stage", {})
    if expert is not None:
        flow |= {"boundaries": recipe.boundaries, "expert": expert}
    return {**merged, "stage": in_recipe(folder, flow)}


def _merged(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `settings` over `defaults`, two levels deep; a deeper mapping, e.g. `folders`, is replaced."""
    merged = dict(defaults)
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged
