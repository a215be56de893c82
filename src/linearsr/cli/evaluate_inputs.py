"""What `linearsr eval` measures: from its arguments to a source of images, or a line that says why not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from linearsr.cli.console import FAILED, WRONG_USE, out, say, stop, table, told, write_json
from linearsr.cli.loading import DEFAULT_MODEL, check_degradation, load_pipeline
from linearsr.jobs.messages import shown
from linearsr.settings import DType

if TYPE_CHECKING:
    from linearsr.evaluation.datasets import Dataset, Layout
    from linearsr.evaluation.sources import Source

_MOST_COLUMNS = 6


@dataclass(frozen=True)
class Inputs:
    """The arguments that say what is measured."""

    pred_dir: Path | None
    hr_dir: Path | None
    model: str | None
    data: Path | None
    degrade: str
    dataset: str | None
    root: Path | None
    seed: int
    steps: int | None
    fidelity: float | None


def check_inputs(inputs: Inputs) -> None:
    """End the command if it is not clear what should be measured."""
    check_degradation("--degrade", inputs.degrade)
    if (inputs.dataset is None) != (inputs.root is None):
        stop("--dataset NAME and --root DIR belong together")
    if inputs.pred_dir is not None and (inputs.model is not None or inputs.data is not None):
        stop("give either PRED_DIR or a model (--model, --data), not both")
    if inputs.pred_dir is not None and (inputs.steps, inputs.fidelity) != (None, None):
        stop(
            "--steps and --fidelity are for a model: leave them out, or give --data in the place of PRED_DIR"
        )
    if inputs.dataset is not None:
        if inputs.hr_dir is not None or inputs.data is not None:
            stop("the HR images of --dataset are in --root: leave out HR_DIR and --data")
    elif inputs.model is not None and inputs.data is None:
        stop("--model needs photos: give --data HR_DIR, or --dataset and --root")
    elif inputs.pred_dir is None and inputs.data is None:
        stop(
            "nothing to measure: give PRED_DIR HR_DIR, or --data HR_DIR for a model, or --dataset and --root"
        )


def check_apart(output: Path, inputs: Inputs) -> None:
    """End the command if the results would lie among the images that are measured."""
    place = output.resolve()
    for folder in filter(None, (inputs.pred_dir, inputs.hr_dir, inputs.data, inputs.root)):
        if place == folder.resolve() or folder.resolve() in place.parents:
            stop(f"-o {shown(output)} lies in {shown(folder)}, which is measured: choose another place")


def look_at(name: str, root: Path | None) -> "tuple[Dataset, Layout]":
    """A test set, and what is there of it. Ends the command for an unknown name."""
    from linearsr.evaluation.datasets import DATASETS, check

    if name not in DATASETS:
        stop(f"--dataset {name} is unknown: choose from {', '.join(DATASETS)}")
    assert root is not None
    return DATASETS[name], check(DATASETS[name], root)


def report_check(inputs: Inputs, dataset: "Dataset", layout: "Layout", as_json: bool) -> NoReturn:
    """Say whether the test set is complete, and end the command."""
    if as_json:
        write_json(
            {
                "dataset": inputs.dataset,
                "root": str(inputs.root),
                "complete": not layout.problems,
                "problems": layout.problems,
                "address": dataset.address,
                "published": dataset.published,
            }
        )
    if layout.problems:
        _say_problems(inputs, dataset, layout)
        raise typer.Exit(FAILED)
    say(f"{inputs.dataset} is complete ({dataset.title}): give PRED_DIR or --model to measure")
    if not as_json:
        show_published(dataset.published)
    raise typer.Exit


def _say_problems(inputs: Inputs, dataset: "Dataset", layout: "Layout") -> None:
    say(f"{inputs.dataset} is not complete ({dataset.title}):")
    for problem in layout.problems:
        say(f"  {shown(problem)}")
    say(f"published at {dataset.address}")
    folders = (
        "LR and HR images into the folders LR and HR" if dataset.has_hr else "LR images into the folder LR"
    )
    say(f"get it there and put its {folders} of {shown(inputs.root or '')}")


def open_source(
    inputs: Inputs, layout: "Layout | None", device: str, dtype: DType, output: Path | None
) -> "Source":
    """What is measured, its files matched. Ends the command if they do not match, or the model cannot be loaded."""
    from linearsr.evaluation.matching import MatchError
    from linearsr.evaluation.sources import Folders

    keep = None if output is None else output / "results"
    with told(ValueError, OSError):
        try:
            if inputs.pred_dir is None:
                return _open_model(inputs, layout, device, dtype, keep)
            if layout is None:
                return Folders(inputs.pred_dir, inputs.hr_dir)
            return Folders(inputs.pred_dir, layout.hr, lr=layout.lr)
        except MatchError as error:
            for line in f"linearsr: {error}".splitlines():
                say(shown(line))
            raise typer.Exit(WRONG_USE) from None


def _open_model(
    inputs: Inputs, layout: "Layout | None", device: str, dtype: DType, keep: Path | None
) -> "Source":
    from linearsr.evaluation.sources import Recipe, Results, digest
    from linearsr.model_folder import default_model_folder
    from linearsr.runtime.checkpoints import resolve_folder

    model = None if inputs.model == DEFAULT_MODEL else inputs.model
    pipeline = load_pipeline(model, device, dtype)
    folder = default_model_folder() if model is None else resolve_folder(model)
    settings: dict[str, Any] = {
        "model": pipeline.config.name,
        "weights": digest(folder),
        "device": pipeline.device.type,
        "dtype": pipeline.arithmetic,
    }
    recipe = Recipe(inputs.seed, inputs.steps, inputs.fidelity)
    hr, lr = (inputs.data, None) if layout is None else (layout.hr, layout.lr)
    return Results(pipeline, recipe, settings, keep, hr, lr, inputs.degrade)


def show_published(lines: Sequence[Mapping[str, Any]]) -> None:
    """Lines of published tables, six metrics to a table; metrics that nobody published are left out."""
    from linearsr.evaluation.evaluate import number

    screen = out()
    values: dict[str, None] = {name: None for line in lines if line["source"] for name in line["values"]}
    names = list(values)
    for start in range(0, len(names), _MOST_COLUMNS):
        part = names[start : start + _MOST_COLUMNS]
        published = table("method", *part, numbers=1)
        for line in lines:
            published.add_row(line["method"], *(number(line["values"].get(name)) for name in part))
        screen.print(published)
    for source in dict.fromkeys(line["source"] for line in lines if line["source"]):
        screen.print(f"published: {source}")
