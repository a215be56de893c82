"""`linearsr train`: a config in, a folder of weights out."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from linearsr.cli.console import INTERRUPTED, console, debugging, say, shown, stop

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY = 60.0
"""Seconds between two lines about the loss, where there is no terminal to show a bar."""


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file, e.g. configs/default/1-stem.yaml.")
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run, if it has one.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="E.g. optimizer.lr=1e-4; repeatable."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's choice.")] = None,
) -> None:
    """Train one stage as a config says.

    For several GPUs: accelerate launch -m linearsr.cli.app train CONFIG.
    """
    try:
        from linearsr.training.config import load_config
        from linearsr.training.section import ConfigError
        from linearsr.training.state import latest_checkpoint
        from linearsr.training.trainer import Trainer
    except ModuleNotFoundError as error:
        _stop_for_extra(error)
    import torch
    from safetensors import SafetensorError

    from linearsr.checkpoints import CheckpointError
    from linearsr.images.io import ImageError

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        settings = load_config(config, overrides)
        checkpoint = latest_checkpoint(settings.run_dir / "checkpoints")
        if checkpoint is not None and not resume:
            stop(f"{shown(settings.run_dir)} has checkpoints: go on with --resume, or --set run_dir=ANOTHER")
        with TrainingProgress(settings.total_images) as progress:
            trainer = Trainer(settings, progress.report)
            if resume:
                say(f"going on from {trainer.resume()} images")
            folder = trainer.run()
    except ModuleNotFoundError as error:
        _stop_for_extra(error)
    except (ConfigError, CheckpointError, ImageError, SafetensorError) as error:
        if debugging():
            raise
        stop(error)
    except OSError as error:
        if debugging():
            raise
        stop(f"{shown(error.filename)}: {error.strerror}" if error.filename else error, status=1)
    except KeyboardInterrupt:
        stop("interrupted: --resume goes on from the newest checkpoint", INTERRUPTED)
    say(f"weights in {shown(folder)}")


def _stop_for_extra(error: ModuleNotFoundError) -> NoReturn:
    if debugging():
        raise error
    stop(f"training needs {error.name}: pip install 'linearsr[train]'")


class TrainingProgress:
    """A bar with pace, loss and the last validation; lines now and then where stderr is no terminal."""

    def __init__(self, total_images: int) -> None:
        self._total = total_images
        self._bar: Progress | None = None
        self._task: TaskID
        self._last_line = -math.inf

    def __enter__(self) -> "TrainingProgress":
        if console().is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console(),
            )
            self._task = self._bar.add_task("images", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def report(self, record: dict[str, Any]) -> None:
        """Show one record of the trainer: losses of a step, or a validation."""
        values = {key: value for key, value in record.items() if key != "images"}
        line = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        is_step = "images_per_second" in record
        if self._bar is not None and is_step:
            self._bar.update(self._task, completed=record["images"], description=line)
        elif not is_step or time.monotonic() - self._last_line > _LINE_EVERY:
            say(f"{record['images']}/{self._total} images: {line}")
            self._last_line = time.monotonic()
