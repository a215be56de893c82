"""Training of a recipe: its runs in order, each resumed where it stands, and then the model of their parts.

The folder of a run alone shows where it stands. So a recipe can be stopped and resumed anywhere, and the
experts, which do not depend on each other, can be trained on several machines that share a folder.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.model_folder import load_guidance, load_stem, load_tagger
from linearsr.models.codec import Codec, ResidualCodec, ResidualCodecConfig
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline, PipelineConfig
from linearsr.runtime.checkpoints import write_json
from linearsr.runtime.files import prefixed
from linearsr.training.config import TrainConfig
from linearsr.training.curves import CONFIG_FILE
from linearsr.training.flow import FlowStage
from linearsr.training.objective import Computed
from linearsr.training.parts import FROM_DISK
from linearsr.training.processes import from_main
from linearsr.training.recipe import RecipeConfig, Run, choose, in_recipe, last_flow
from linearsr.training.run_folder import (
    KNEE_FOLDER,
    Report,
    check_same_run,
    knee_record,
    note_knee,
    read_note,
    settings_of,
)
from linearsr.training.section import ConfigError
from linearsr.training.trainer import Trainer

MODEL_FOLDER = "model"
_STARTED_FROM_FILE = "started_from.json"


def train_run(run: Run, report_for: Callable[[Run], Report]) -> Path:
    """Train one run unless it is finished, and return the folder of the weights at its knee."""
    if from_main(partial(_unfinished, [run])):
        if isinstance(run.config.stage, Computed):
            from_main(partial(_compute, run.config, report_for(run)))
            return run.knee
        trainer = Trainer(run.config, report_for(run))
        trainer.resume()
        trainer.run()
    return run.knee


def train_recipe(
    recipe: RecipeConfig, runs: list[Run], report_for: Callable[[Run], Report], only: str | None = None
) -> Path | None:
    """Train all unfinished runs, or `only` the named run or stage; assemble the model once all are finished.

    Returns:
        The folder of the model, or None if other runs are unfinished or the recipe makes no model.

    Raises:
        ConfigError: when no run is named `only`, a run that it needs is unfinished, or `check_begun` fails.
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
    """Compare what was trained with the current configs.

    Raises ConfigError: when a run began with other settings, or from weights that are not at the knee now.
    """
    from_main(partial(_check_begun, runs))


def _check_begun(runs: Sequence[Run]) -> None:
    begun = [run for run in runs if run.begun]
    for run in begun:
        with prefixed(f"{run.name}: " if len(runs) > 1 else "", ConfigError, ConfigError):
            check_same_run(run.config, run.finished)
    outdated: dict[str, str] = {}
    for run in begun:
        noted = read_note(run.config.run_dir / _STARTED_FROM_FILE) or {}
        for start in _needed(run, runs):
            now = _identity(start)
            # a run that is continued or repeated will have another knee
            if noted.get(start.name, now) != now or start.name in outdated or not start.finished:
                outdated.setdefault(run.name, start.name)
    if outdated:
        verb, whose = ("was", "its folder") if len(outdated) == 1 else ("were", "their folders")
        raise ConfigError(
            f"{', '.join(outdated)} {verb} trained from another knee of {next(iter(outdated.values()))} than this "
            f"config gives: remove {whose}, or set run_dir"
        )


def _note_start(run: Run, inputs: Sequence[Run]) -> None:
    """Record the knees that a run starts from."""
    if not run.begun:
        run.config.run_dir.mkdir(parents=True, exist_ok=True)
        write_json(
            run.config.run_dir / _STARTED_FROM_FILE, {start.name: _identity(start) for start in inputs}
        )


def _identity(run: Run) -> dict[str, Any]:
    """Return the figures that identify the knee of a run."""
    record = knee_record(run.config.run_dir) or {}
    return {key: record.get(key) for key in ("images", "trained_images", "written")}


def _unfinished(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs if not run.finished]


def _needed(run: Run, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that `run` takes parts from."""
    # a setting that begins with the folder of a run refers to a part of it; [:-1] cuts the closing quote
    settings = json.dumps(run.config.stage.model_dump(mode="json"))
    return [other for other in runs if json.dumps(f"{other.config.run_dir}{os.sep}")[:-1] in settings]


def _compute(config: TrainConfig, report: Report) -> None:
    """Make the part of a stage without training steps, in a folder like that of a finished run."""
    assert isinstance(config.stage, Computed)
    made, figures = config.stage.compute(config.data, config.seed)
    for name, part in made.items():
        part.save_pretrained(config.run_dir / KNEE_FOLDER / name)
    write_json(config.run_dir / CONFIG_FILE, settings_of(config))
    images = config.total_images
    if figures:
        report({"images": images, **figures})
    note_knee(config.run_dir, images, images, figures)


def _save_model(recipe: RecipeConfig, runs: list[Run]) -> Path:
    """Assemble and write the model, and return its folder."""
    final, parts = last_flow(runs), recipe.parts
    stem = recipe.folder(parts.lr_stem)
    experts = [run.knee / "transformer" for run in final]
    codec: Codec = ResidualCodec(ResidualCodecConfig())
    guidance: Path | None = None
    boundaries: tuple[float, ...] = ()
    if final:
        stage = final[0].config.stage
        assert isinstance(stage, FlowStage)
        stem = stem or stage.stem or final[0].knee / "lr_stem"
        codec, boundaries = FROM_DISK.codec(stage), stage.boundaries
        if stage.guidance is not None:
            guidance = stage.guidance.part or final[0].knee / "guidance"
    for number, name in parts.experts.items():
        experts[number] = Path(in_recipe(recipe.run_dir, name))
    assert stem is not None
    config, others = PipelineConfig.from_index(recipe.model), map(recipe.folder, (parts.tagger, parts.trunk))
    model = assemble(stem, experts, boundaries, codec, config, guidance, *others)
    folder = recipe.run_dir / MODEL_FOLDER
    model.save_pretrained(folder, torch.bfloat16)
    return folder


def assemble(
    stem: Path,
    experts: Sequence[Path],
    boundaries: Sequence[float],
    codec: Codec,
    config: PipelineConfig,
    guidance: Path | None = None,
    tagger: Path | None = None,
    trunk: Path | None = None,
) -> LinearSRPipeline:
    """Assemble a pipeline from trained folders; experts go from noise to image, one more than boundaries.

    Raises:
        CheckpointError: when a folder does not hold the expected network.
        ValueError: when the experts do not fit each other or the boundaries.
    """
    networks = [LinearSRTransformer.from_pretrained(folder) for folder in experts]
    return LinearSRPipeline(
        load_stem(stem),
        SNRExperts(Partition(tuple(boundaries)), networks) if networks else None,
        codec,
        config,
        None if guidance is None else load_guidance(guidance),
        None if tagger is None else load_tagger(tagger),
        None if trunk is None else RRDBNet.from_pretrained(trunk),
    )
