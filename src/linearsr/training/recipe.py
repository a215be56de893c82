"""A whole training as one file: stages in order, each started from the knee of the one before.

    codec (or stem) -> pretrain -> experts, one run for each span -> sft, one run for each span -> others -> model

Where every run stands is seen from its folder alone. So a recipe can be stopped and resumed anywhere, and the experts,
which do not wait for each other, can be trained on several machines with a common folder.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BeforeValidator, Field, field_validator, model_validator

from linearsr.flow.partition import PUBLISHED, Partition
from linearsr.models.codec import ResidualCodec
from linearsr.pipeline import PipelineConfig
from linearsr.runtime.checkpoints import write_json
from linearsr.training.assemble import assemble
from linearsr.training.begun import (
    KNEE_FILE,
    changed_since,
    check_same_run,
    knee_record,
    note_start,
)
from linearsr.training.begun import settings_of as settings_as_json
from linearsr.training.config import TrainConfig, parse_settings
from linearsr.training.curves import CONFIG_FILE
from linearsr.training.flow import FlowStage
from linearsr.training.inheritance import StageSettings, in_recipe, none_is_empty, settings_of
from linearsr.training.objective import Computed
from linearsr.training.parts import Parts
from linearsr.training.processes import from_main
from linearsr.training.run_log import Report
from linearsr.training.section import ConfigError, Section
from linearsr.training.state import latest_checkpoint
from linearsr.training.tagger import TaggerStage
from linearsr.training.tagger_trainer import TaggerTrainer
from linearsr.training.trainer import KNEE_FOLDER, Trainer

MODEL_FOLDER = "model"
STAGES = ("codec", "stem", "pretrain", "experts", "sft")
_ONE_RUN_AN_EXPERT = ("experts", "sft")


class ModelParts(Section):
    """Parts of the resulting model beside those of the last flow stage; `@RUN/...` lies in the recipe's folder."""

    lr_stem: str | None = None
    experts: dict[int, str] = Field({})
    """By their number, 0 = the noisiest."""
    codec: dict[str, Any] = Field({})
    """Fields of `ResidualCodecConfig` that differ from those of training."""
    tagger: str | None = None
    trunk: str | None = None


class RecipeConfig(Section):
    """Stages of one model. A stage has the settings of a run, without `run_dir`; those of `common` are its defaults."""

    run_dir: Path
    boundaries: tuple[float, ...] = PUBLISHED.boundaries
    """Partition of the trajectory among the experts, ascending times."""
    common: StageSettings = Field({})
    """Settings of all stages."""
    stages: Annotated[dict[str, StageSettings], BeforeValidator(none_is_empty)]
    """Settings of each stage of `codec`, `stem`, `pretrain`, `experts`, `sft`, in this order, then of others, of any
    name and a `stage.kind`, as they are written. In `stage`, `@RUN/knee/PART` is what another run has left."""
    parts: ModelParts = ModelParts()
    model: Annotated[dict[str, Any], BeforeValidator(none_is_empty)] = Field({})
    """Settings of the resulting model, fields of `PipelineConfig`."""

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
        try:
            PipelineConfig.from_index(self.model)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model: {error}") from None
        known = PipelineConfig.__dataclass_fields__
        if unknown := sorted(set(self.model) - set(known)):
            raise ValueError(f"model: unknown setting {unknown[0]!r}: choose from {', '.join(known)}")
        return self

    def folder(self, name: str) -> Path:
        """What `@RUN/...` or a path means."""
        return Path(in_recipe(self.run_dir, name))

    @property
    def makes_model(self) -> bool:
        """Whether there is one in the end; a stem or a codec alone is none."""
        return "pretrain" in self.stages


class Run(NamedTuple):
    """One run of a recipe."""

    name: str
    """E.g. "pretrain" or "experts/2"; also its place in the recipe's folder."""
    config: TrainConfig

    @property
    def knee(self) -> Path:
        """Where the weights at its knee are, once it is finished."""
        return self.config.run_dir / KNEE_FOLDER

    @property
    def finished(self) -> bool:
        """Whether its knee is known, and it was trained as far as its config says."""
        knee = knee_record(self.config.run_dir)
        if knee is None:
            return False
        stopped = self.config.stop_at_knee and knee.get("confirmed", False)
        return bool(stopped or knee["trained_images"] > self.config.total_images - self.config.batch_size)

    @property
    def started(self) -> bool:
        """Whether there is something to resume."""
        return latest_checkpoint(self.config.run_dir / "checkpoints") is not None

    @property
    def begun(self) -> bool:
        """Whether anything was trained: checkpoints may have been removed since."""
        return self.started or knee_record(self.config.run_dir) is not None


def plan(recipe: RecipeConfig, where: str) -> list[Run]:
    """All runs of a recipe in order. Raises ConfigError, one line that names `where`, the stage and the key."""
    runs = []
    count = Partition(recipe.boundaries).num_experts
    for stage in [
        *(name for name in STAGES if name in recipe.stages),
        *(n for n in recipe.stages if n not in STAGES),
    ]:
        for expert in range(count) if stage in _ONE_RUN_AN_EXPERT else [None]:
            name = stage if expert is None else f"{stage}/{expert}"
            raw = settings_of(stage, expert, recipe.common, recipe.stages, recipe.run_dir)
            raw["run_dir"] = recipe.run_dir / name
            if expert is not None:
                raw["stage"] |= {"boundaries": recipe.boundaries, "expert": expert}
            runs.append(Run(name, parse_settings(TrainConfig, raw, f"{where}: stages.{stage}")))
    return runs


def choose(runs: Sequence[Run], only: str | None = None) -> list[Run]:
    """The run or the runs of a stage of that name, or all. Raises ConfigError where there is none."""
    chosen = [run for run in runs if only is None or run.name == only or run.name.startswith(f"{only}/")]
    if not chosen:
        raise ConfigError(f"--stage {only}: choose from {', '.join(run.name for run in runs)}")
    return chosen


def train_run(run: Run, report_for: Callable[[Run], Report]) -> Path:
    """Train one run from where it stands, unless it is finished; returns the folder of the weights at its knee."""
    if from_main(partial(_unfinished, [run])):
        if isinstance(run.config.stage, Computed):
            from_main(partial(_compute, run.config, report_for(run)))
            return run.knee
        kind = TaggerTrainer if isinstance(run.config.stage, TaggerStage) else Trainer
        trainer = kind(run.config, report_for(run))
        trainer.resume()
        trainer.run()
    return run.knee


def train_recipe(
    recipe: RecipeConfig, runs: list[Run], report_for: Callable[[Run], Report], only: str | None = None
) -> Path | None:
    """Train what is not finished yet, or only the run of that name, and put the model together once all are done.

    Returns:
        The folder of the model, or None where other runs are still to be done, or the recipe makes no model.

    Raises:
        ConfigError: no run has the name `only`, a run before it is not finished, or `check_begun` finds something.
    """
    chosen = choose(runs, only)
    check_begun(runs)
    for run in chosen:
        waiting = from_main(partial(_unfinished, _needed(run, runs)))
        if waiting:
            raise ConfigError(
                f"--stage {only}: {run.name} starts from the knee of {waiting[0]}: train that first"
            )
        from_main(partial(_note_start, run, _needed(run, runs)))
        train_run(run, report_for)
    if not recipe.makes_model or from_main(partial(_unfinished, runs)):
        return None
    return from_main(partial(_save_model, recipe, runs))


def check_begun(runs: Sequence[Run]) -> None:
    """Compare what was trained with what the configs say now.

    Raises:
        ConfigError: a run was begun with other settings, or from weights that are not those at the knee any more.
    """
    trouble = from_main(partial(_other_settings, runs)) or from_main(partial(_other_start, runs))
    if trouble:
        raise ConfigError(trouble)


def _other_settings(runs: Sequence[Run]) -> str:
    for run in runs:
        try:
            if run.begun:
                check_same_run(run.config.run_dir, run.config, run.finished)
        except ConfigError as error:
            return f"{run.name}: {error}" if len(runs) > 1 else str(error)
    return ""


def _other_start(runs: Sequence[Run]) -> str:
    outdated: dict[str, str] = {}
    for run in runs:
        inputs = _needed(run, runs)
        other = changed_since(run.config.run_dir, _folders(inputs))
        # what is trained on, or anew, will have another knee
        other += [start.name for start in inputs if start.name in outdated or not start.finished]
        if run.begun and other:
            outdated[run.name] = other[0]
    if not outdated:
        return ""
    verb, whose = ("was", "its folder") if len(outdated) == 1 else ("were", "their folders")
    return (
        f"{', '.join(outdated)} {verb} trained from another knee of {next(iter(outdated.values()))} than this config "
        f"gives: remove {whose}, or set run_dir"
    )


def _note_start(run: Run, inputs: Sequence[Run]) -> None:
    if not run.begun:
        note_start(run.config.run_dir, _folders(inputs))


def _folders(runs: Sequence[Run]) -> dict[str, Path]:
    return {run.name: run.config.run_dir for run in runs}


def _unfinished(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs if not run.finished]


def _needed(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The runs of whose parts `run` is made."""
    texts = _texts(run.config.stage.model_dump(mode="json"))
    inside = {parent for text in texts for parent in Path(text).parents}
    return [other for other in runs if other.config.run_dir in inside]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _compute(config: TrainConfig, report: Report) -> None:
    """Make the part of a stage that takes no steps; its folder is that of a finished run."""
    assert isinstance(config.stage, Computed)
    made, figures = config.stage.compute(config.data.folders, config.seed)
    for name, part in made.items():
        part.save_pretrained(config.run_dir / KNEE_FOLDER / name)
    write_json(config.run_dir / CONFIG_FILE, settings_as_json(config))
    images = config.total_images
    if figures:
        report({"images": images, **figures})
    record = {"images": images, "trained_images": images, "written": time.time(), **figures}
    write_json(config.run_dir / KNEE_FILE, record)


def last_flow(runs: Sequence[Run]) -> list[Run]:
    """The runs of the last of the stages `pretrain`, `experts` and `sft`."""
    flows = [run for run in runs if run.name.partition("/")[0] in STAGES]
    last = flows[-1].name.partition("/")[0]
    return [run for run in flows if run.name.partition("/")[0] == last]


def _save_model(recipe: RecipeConfig, runs: list[Run]) -> Path:
    """Write the model of the last flow stage's networks, or of what `parts` names instead; returns its folder."""
    final, parts = last_flow(runs), recipe.parts
    stage = final[0].config.stage
    assert isinstance(stage, FlowStage)
    guidance = None
    if stage.guidance is not None:
        guidance = stage.guidance.part or final[0].knee / "guidance"
    experts = [run.knee / "transformer" for run in final]
    for number, name in parts.experts.items():
        experts[number] = recipe.folder(name)
    codec = Parts().codec(stage)
    if isinstance(codec, ResidualCodec):
        codec = ResidualCodec(replace(codec.config, **parts.codec))
    others = {
        name: recipe.folder(folder)
        for name in ("tagger", "trunk")
        if (folder := getattr(parts, name)) is not None
    }
    stem = stage.stem or final[0].knee / "lr_stem" if parts.lr_stem is None else recipe.folder(parts.lr_stem)
    config = PipelineConfig.from_index(recipe.model)
    model = assemble(stem, experts, stage.boundaries, codec, config, guidance, **others)
    folder = recipe.run_dir / MODEL_FOLDER
    model.save_pretrained(folder, torch.bfloat16)
    return folder
