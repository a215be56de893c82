"""`linearsr train`: train a model, or a stage of it, from a YAML config."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from linearsr.cli.console import (
    FAILED,
    INTERRUPTED,
    WRONG_USE,
    Bars,
    console,
    say,
    say_warnings,
    stop,
    write_json,
)
from linearsr.cli.options import Threads
from linearsr.jobs.messages import debugging, failure, shown

if TYPE_CHECKING:
    from linearsr.training.recipe import Run

_LINE_EVERY = 60.0
"""Seconds between two lines about the loss when there is no terminal to show a bar."""

_HEAD_START = 15.0
"""Seconds that other processes delay an error: the main one says it first, and the launcher ends the rest."""


def train(
    config: Annotated[
        Path, Argument(metavar="CONFIG", help="YAML file with a recipe of stages, or one run.")
    ],
    resume: Annotated[bool, Option("--resume", help="Resume from the newest checkpoint.")] = False,
    overrides: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value of CONFIG, such as common.batch_size=4; repeatable.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        Option(
            metavar="NAME", help="Train only this stage or run of a recipe, such as pretrain or experts/2."
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Show what would be trained, on what and at what cost.")
    ] = False,
    json: Annotated[
        bool, Option("--json", help="With --dry-run: print one JSON document to stdout.")
    ] = False,
    rate: Annotated[
        float | None,
        Option(min=0.001, help="With --dry-run: images per second, to tell the hours. Default: measured."),
    ] = None,
    threads: Threads = None,
) -> None:
    """Train a model, or one stage of it, from a YAML config.

    A recipe trains its stages in order, each from the knee of the one before, and then puts the model together.

        linearsr train configs/tiny.yaml
        linearsr train recipe.yaml --stage pretrain --set common.batch_size=4
        accelerate launch -m linearsr.cli.app train recipe.yaml   (several GPUs)
    """
    with _errors_told():
        import torch

        from linearsr.training.checks import check, check_model, describe
        from linearsr.training.config import TrainConfig, parse_settings, read_settings
        from linearsr.training.processes import leave
        from linearsr.training.recipe import RecipeConfig, Run, choose, plan
        from linearsr.training.runs import check_begun, train_recipe, train_run
        from linearsr.training.section import ConfigError

        if threads is not None:
            torch.set_num_threads(threads)
        settings, recipe = read_settings(config, overrides), None
        if "stages" in settings:
            recipe = parse_settings(RecipeConfig, settings, str(config))
            runs = plan(recipe, str(config))
        elif stage is not None:
            raise ConfigError(f"--stage {stage}: {config} is one run, without stages")
        else:
            runs = [Run(config.stem, parse_settings(TrainConfig, settings, str(config)))]
        chosen = choose(runs, stage)
        objectives = check(runs)
        if recipe is not None:
            check_model(recipe, runs, objectives)
        if dry_run:
            if _is_main():
                plans = describe(runs, objectives, rate, stage)
                write_json(plans) if json else _show_plan(plans)
            _warn_of_decay(chosen)
            return
        check_begun(runs)
        begun = [run for run in chosen if run.begun]
        if not resume and any(not run.finished for run in begun):
            place = shown((recipe or begun[0].config).run_dir)
            raise ConfigError(f"{place} has checkpoints: go on with --resume, or --set run_dir=ANOTHER")
        _warn_of_decay([run for run in chosen if not run.finished])
        for run in begun:
            say(f"{run.name}: {'done' if run.finished else 'going on from its newest checkpoint'}")
        with TrainingProgress() as progress:
            folder = (
                train_run(runs[0], progress.for_run)
                if recipe is None
                else train_recipe(recipe, runs, progress.for_run, stage)
            )
        leave()
        if folder is not None:
            say(f"weights in {shown(folder)}")
        elif recipe is not None:
            for run in chosen:
                say(f"{run.name}: weights in {shown(run.knee)}")
            say(
                "no model yet: other runs of the recipe are still to be done"
                if recipe.makes_model
                else "no model to put together: the recipe trains no flow"
            )


def _is_main() -> bool:
    """Return whether this is the main process (rank 0) of a run, the one that prints for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _errors_told() -> Iterator[None]:
    """End the command with one line for an error. If all processes fail alike, only the main one says it."""
    from safetensors import SafetensorError

    from linearsr.images.picture import ImageError
    from linearsr.runtime.checkpoints import CheckpointError
    from linearsr.training.curves import CurvesError
    from linearsr.training.guard import Diverged
    from linearsr.training.section import ConfigError, remedy

    console().quiet = not _is_main()
    say_warnings()
    ours, status = (ConfigError, CheckpointError, CurvesError, ImageError, SafetensorError), WRONG_USE
    try:
        yield
        return
    except KeyboardInterrupt:
        if not _is_main():
            raise
        message, status = "interrupted: --resume goes on from the newest checkpoint", INTERRUPTED
    except Diverged as error:
        message, status = str(error), FAILED
    except (OSError, ModuleNotFoundError, *ours) as error:
        if debugging():
            raise
        message = str(error)
        if isinstance(error, OSError):
            message, status = failure(error), FAILED
        elif isinstance(error, ModuleNotFoundError):
            message = f"training needs {error.name}: {remedy(error.name or '')}"
    if not _is_main():
        time.sleep(_HEAD_START)
        console().quiet = False
    stop(message, status)


def _warn_of_decay(runs: "list[Run]") -> None:
    """Warn about runs that combine stop_at_knee with a falling learning rate.

    Curves may leave a plateau again when the rate falls, and an early end misses the low rates.
    """
    from linearsr.training.objective import Computed

    configs = {run.name: run.config for run in runs if not isinstance(run.config.stage, Computed)}
    names = [n for n, c in configs.items() if c.stop_at_knee and c.optimizer.final_lr < c.optimizer.lr]
    if names:
        reason = "stop_at_knee may end the training before the learning rate has fallen to final_lr"
        say(f"linearsr: {', '.join(names)}: {reason}: set stop_at_knee: false, or final_lr to lr")


def _show_plan(plans: dict[str, dict[str, str]]) -> None:
    for topics, alike in groupby(plans, key=plans.__getitem__):
        typer.echo(", ".join(alike))
        for topic, line in topics.items():
            typer.echo(f"  {topic:<10} {line}")


class TrainingProgress(Bars):
    """A progress bar with pace and losses; lines now and then when stderr is not a terminal."""

    def __init__(self) -> None:
        super().__init__(transient=False)
        self._task = self.bars.add_task("images", total=None)
        self._last_line = -math.inf

    def for_run(self, run: "Run") -> Any:
        """Start the bar of the next run, and return the function that takes its records."""
        self._name, self._total = run.name, run.config.total_images
        self.bars.reset(self._task, total=self._total, description=self._name)
        say(f"{self._name}: training on up to {self._total:,} images in {shown(run.config.run_dir)}")
        return self.report

    def report(self, record: dict[str, Any]) -> None:
        """Show one record of the trainer: the losses of a step, a validation, or an event of the guard."""
        at = f"{self._name}: {record['images']:,}/{self._total:,} images: "
        if "event" in record:
            say(at + str(record["event"]))
            return
        values = {
            key: value for key, value in record.items() if isinstance(value, int | float) and key != "images"
        }
        line = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if "skipped" in record:
            line = f"step skipped, {record['skipped']}"
        is_step = "grad_norm" in record
        if is_step and not self.bars.disable:
            self.bars.update(self._task, completed=record["images"], description=f"{self._name} {line}")
        elif not is_step or "skipped" in record or time.monotonic() - self._last_line > _LINE_EVERY:
            say(at + line)
            self._last_line = time.monotonic()
