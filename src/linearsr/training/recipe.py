"""A whole training as one file: stages in order, each started from the knee of the one before.

    codec (or stem) -> pretrain -> experts, one run for each span -> sft, one run for each span -> model

Where every run stands is seen from its folder alone. So a recipe can be stopped and resumed anywhere, and the experts,
which do not wait for each other, can be trained on several machines with a common folder.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator, model_validator

from linearsr.flow.partition import PUBLISHED, Partition
from linearsr.pipeline import PipelineConfig
from linearsr.training.assemble import assemble
from linearsr.training.config import TrainConfig, parse_settings
from linearsr.training.flow import FlowStage, stage_codec
from linearsr.training.processes import from_main
from linearsr.training.run_log import Report
from linearsr.training.section import ConfigError, Section
from linearsr.training.state import latest_checkpoint
from linearsr.training.trainer import KNEE_FILE, KNEE_FOLDER, Trainer

MODEL_FOLDER = "model"
STAGES = ("codec", "stem", "pretrain", "experts", "sft")
_ONE_RUN_AN_EXPERT = ("experts", "sft")
_ONLY_AT_THE_START = ("init", "network", "lora")


class RecipeConfig(Section):
    """Stages of one model. A stage has the settings of a run, without `run_dir`; those of `common` are its defaults."""

    run_dir: Path
    boundaries: tuple[float, ...] = PUBLISHED.boundaries
    """Partition of the trajectory among the experts, ascending times."""
    common: dict[str, Any] = Field({})
    """Settings of all stages."""
    stages: dict[str, dict[str, Any]]
    """Settings of each stage of `codec`, `stem`, `pretrain`, `experts`, `sft`; the order is always this one."""
    model: dict[str, Any] = Field({})
    """Settings of the resulting model, fields of `PipelineConfig`."""

    @field_validator("stages")
    @classmethod
    def _known(cls, stages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        unknown = sorted(set(stages) - set(STAGES))
        if unknown:
            raise ValueError(f"unknown stage {unknown[0]!r}: choose from {', '.join(STAGES)}")
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


class Run(NamedTuple):
    """One run of a recipe."""

    name: str
    """E.g. "pretrain" or "experts/2"; also its place in the recipe's folder."""
    config: TrainConfig

    @property
    def finished(self) -> bool:
        """Whether its knee is known, and it was trained as far as its config says."""
        path = self.config.run_dir / KNEE_FILE
        if not path.exists():
            return False
        knee = json.loads(path.read_text(encoding="utf-8"))
        stopped = self.config.stop_at_knee and knee.get("confirmed", False)
        return bool(stopped or knee["trained_images"] > self.config.total_images - self.config.batch_size)

    @property
    def started(self) -> bool:
        """Whether there is something to resume."""
        return latest_checkpoint(self.config.run_dir / "checkpoints") is not None


def plan(recipe: RecipeConfig, where: str) -> list[Run]:
    """All runs of a recipe in order. Raises ConfigError, one line that names `where`, the stage and the key."""
    runs = []
    count = Partition(recipe.boundaries).num_experts
    for stage in STAGES:
        if stage not in recipe.stages:
            continue
        settings = _merged(recipe.common, recipe.stages[stage])
        for expert in range(count) if stage in _ONE_RUN_AN_EXPERT else [None]:
            name = stage if expert is None else f"{stage}/{expert}"
            raw = {
                **settings,
                "run_dir": recipe.run_dir / name,
                "stage": {**_links(recipe, stage, expert), **settings.get("stage", {})},
            }
            runs.append(Run(name, parse_settings(TrainConfig, raw, f"{where}: stages.{stage}")))
    return runs


def _links(recipe: RecipeConfig, stage: str, expert: int | None) -> dict[str, Any]:
    """What a stage takes from the knees of the stages before."""

    def knee(run: str, part: str) -> str:
        return str(recipe.run_dir / run / KNEE_FOLDER / part)

    if stage in ("codec", "stem"):
        return {"kind": stage}
    links: dict[str, Any] = {"kind": "flow"}
    if "codec" in recipe.stages:
        links["codec"] = knee("codec", "codec")
    if "stem" in recipe.stages:
        links["stem"] = knee("stem", "lr_stem")
    if stage == "pretrain":
        return links
    start: dict[str, Any] = _merged(recipe.common, recipe.stages["pretrain"]).get("stage", {})
    links = {**{key: value for key, value in start.items() if key not in _ONLY_AT_THE_START}, **links}
    # a stem that was trained along belongs to the network from then on, and is frozen: the experts share it
    links.setdefault("stem", knee("pretrain", "lr_stem"))
    before = "pretrain" if stage == "experts" or "experts" not in recipe.stages else f"experts/{expert}"
    return {**links, "init": knee(before, "transformer"), "boundaries": recipe.boundaries, "expert": expert}


def _merged(defaults: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` over `defaults`, one level down too; what lies deeper, as a mix of folders, is taken as a whole."""
    merged = dict(defaults)
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def train_run(run: Run, report_for: Callable[[Run], Report]) -> Path:
    """Train one run from where it stands; returns the folder of the weights at its knee."""
    trainer = Trainer(run.config, report_for(run))
    trainer.resume()
    return trainer.run()


def train_recipe(
    recipe: RecipeConfig, runs: list[Run], report_for: Callable[[Run], Report], only: str | None = None
) -> Path | None:
    """Train what is not finished yet, or only the run of that name, and put the model together once all are done.

    Returns:
        The folder of the model, or None where other runs are still to be done.

    Raises:
        ConfigError: no run has the name `only`, or a run before it is not finished.
    """
    chosen = (
        runs if only is None else [run for run in runs if run.name == only or run.name.startswith(f"{only}/")]
    )
    if not chosen:
        raise ConfigError(f"--stage {only}: choose from {', '.join(run.name for run in runs)}")
    for run in chosen:
        waiting = from_main(partial(_unfinished, _needed(run, runs)))
        if waiting:
            raise ConfigError(
                f"--stage {only}: {run.name} starts from the knee of {waiting[0]}: train that first"
            )
        if from_main(partial(_unfinished, [run])):
            train_run(run, report_for)
    if "pretrain" not in recipe.stages or from_main(partial(_unfinished, runs)):
        return None
    return from_main(partial(_save_model, recipe, runs))


def _unfinished(runs: list[Run]) -> list[str]:
    return [run.name for run in runs if not run.finished]


def _needed(run: Run, runs: list[Run]) -> list[Run]:
    """The runs from whose knees `run` starts."""
    stage, _, expert = run.name.partition("/")
    if stage == "sft" and any(other.name.startswith("experts/") for other in runs):
        return [other for other in runs if other.name == f"experts/{expert}"]
    earlier = STAGES[: STAGES.index("pretrain" if stage == "pretrain" else "experts")]
    return [] if stage in ("codec", "stem") else [other for other in runs if other.name in earlier]


def _save_model(recipe: RecipeConfig, runs: list[Run]) -> Path:
    """Write the model of the last stage's networks; returns its folder."""
    last = runs[-1].name.partition("/")[0]
    final = [run for run in runs if run.name.partition("/")[0] == last]
    stage = final[0].config.stage
    assert isinstance(stage, FlowStage)
    model = assemble(
        stage.stem or final[0].config.run_dir / KNEE_FOLDER / "lr_stem",
        [run.config.run_dir / KNEE_FOLDER / "transformer" for run in final],
        stage.boundaries,
        stage_codec(stage),
        PipelineConfig.from_index(recipe.model),
    )
    folder = recipe.run_dir / MODEL_FOLDER
    model.save_pretrained(folder, torch.bfloat16)
    return folder
