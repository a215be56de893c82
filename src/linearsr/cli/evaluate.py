"""`linearsr eval`: how good results are, measured."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from linearsr.cli.console import (
    FAILED,
    INTERRUPTED,
    WRONG_USE,
    BatchProgress,
    out,
    say,
    stop,
    table,
    told,
    write_json,
)
from linearsr.cli.loading import DEFAULT_MODEL, check_degradation, choose_device, load_pipeline
from linearsr.cli.options import Degrade, Fidelity, JsonDocument, Steps, WeightType
from linearsr.jobs.messages import one_line, shown
from linearsr.jobs.names import check_folder
from linearsr.settings import DType

if TYPE_CHECKING:
    from linearsr.evaluation.datasets import Dataset, Layout
    from linearsr.evaluation.records import Records
    from linearsr.evaluation.registry import Metric
    from linearsr.evaluation.sources import Case, Source

_MOST_COLUMNS = 6


def evaluate(
    pred_dir: Annotated[Path | None, typer.Argument(metavar="PRED_DIR", help="Results to measure.")] = None,
    hr_dir: Annotated[
        Path | None, typer.Argument(metavar="HR_DIR", help="Their HR images. Without: no-reference metrics.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Measure a model instead: folder, hub id, or 'default'.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="HR_DIR", help="Photos for the model.")] = None,
    degrade: Degrade = "mild",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of degradation and noise.")] = 0,
    steps: Steps = None,
    fidelity: Fidelity = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="realsr, drealsr, reallq250, div2k-val: check it, or measure PRED_DIR or --model."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the dataset, with LR and HR in it.")] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Or all. Default: all that need no download.")
    ] = None,
    border: Annotated[int, typer.Option(min=0, help="Pixels cut off at each side first.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="OUT_DIR", help="For CSV, JSON and report.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Measure anew what is in OUT_DIR.")] = False,
    device: Annotated[str, typer.Option(help="Of the model and of networks that measure.")] = "auto",
    dtype: WeightType = "auto",
    as_json: JsonDocument = False,
) -> None:
    """Measure results: PRED_DIR against HR_DIR, or a model on degraded photos or a test set.

    Files belong together by stem; photo_x4.png is a result of photo. With -o, a stopped run goes on where it was.

    Measured by default: psnr_y, ssim_y, psnr_rgb, ssim_rgb, ms_ssim, fsim, haarpsi, lpips, niqe.

    With pyiqa: lpips_vgg, dists, musiq, maniqa, maniqa_koniq, clipiqa, topiq, fid.
    """
    from linearsr.evaluation.evaluate import settings_of
    from linearsr.evaluation.records import PER_IMAGE, SUMMARY, Records
    from linearsr.evaluation.registry import choose
    from linearsr.evaluation.report import write_report
    from linearsr.evaluation.sources import Folders, Source

    check_degradation("--degrade", degrade)
    _check_inputs(pred_dir, hr_dir, model, data, dataset, root, (steps, fidelity))
    known, layout = _look_at(dataset, root)
    has_reference = layout.hr is not None if layout is not None else (hr_dir or data) is not None
    with told(ValueError):
        chosen = choose(None if metrics is None else metrics.replace(" ", "").split(","), has_reference)
    if known is not None and layout is not None and (layout.problems or (pred_dir or model) is None):
        _report_check(f"{dataset}", f"{root}", known, layout, as_json)
    if output is not None:
        with told():
            check_folder(output)
        for folder in filter(None, (pred_dir, hr_dir, data, root)):
            if folder.resolve() in (output.resolve(), *output.resolve().parents):
                stop(f"-o {shown(output)} lies in {shown(folder)}, which is measured: choose another place")
    asked = [] if metrics is None else chosen
    published = [] if known is None else known.published
    source: Source
    with told(ValueError, OSError), _listed():
        if pred_dir is None:
            hr, lr = (data, None) if layout is None else (layout.hr, layout.lr)
            keep = None if output is None else output / "results"
            source = _model_source(model, device, dtype, (seed, steps, fidelity), hr, lr, degrade, keep)
        else:
            hr, lr = (hr_dir, None) if layout is None else (layout.hr, layout.lr)
            source = Folders(pred_dir, hr, lr)
        single = [metric.name for metric in chosen if metric.kind != "set"]
        opened = Records.open(output, single, settings_of(source, chosen, border), overwrite)
    with opened as records:
        _say_unavailable(asked)
        summary = _measure(source, chosen, records, border, device)
        if metrics is None:
            _add_rest(summary, chosen, has_reference)
        document = {**summary, "dataset": dataset, "published": published}
        if output is not None:
            with told(OSError, status=FAILED):
                write_report(output / "report.html", summary, source, records, published)
            document["files"] = [str(output / name) for name in (PER_IMAGE, SUMMARY, "report.html")]
    write_json(document) if as_json else _show(document)
    if summary["failed"] or any(metric.name in summary["not_available"] for metric in asked):
        raise typer.Exit(FAILED)


def _check_inputs(
    pred_dir: Path | None,
    hr_dir: Path | None,
    model: str | None,
    data: Path | None,
    dataset: str | None,
    root: Path | None,
    of_model: tuple[int | None, float | None],
) -> None:
    """End the command if it is not clear what should be measured."""
    if (dataset is None) != (root is None):
        stop("--dataset NAME and --root DIR belong together")
    if pred_dir is not None and (model is not None or data is not None):
        stop("give either PRED_DIR or a model (--model, --data), not both")
    if pred_dir is not None and of_model != (None, None):
        stop(
            "--steps and --fidelity are for a model: leave them out, or give --data in the place of PRED_DIR"
        )
    if dataset is not None:
        if hr_dir is not None or data is not None:
            stop("the HR images of --dataset are in --root: leave out HR_DIR and --data")
    elif model is not None and data is None:
        stop("--model needs photos: give --data HR_DIR, or --dataset and --root")
    elif pred_dir is None and data is None:
        stop(
            "nothing to measure: give PRED_DIR HR_DIR, or --data HR_DIR for a model, or --dataset and --root"
        )


def _look_at(name: str | None, root: Path | None) -> "tuple[Dataset | None, Layout | None]":
    """A test set, and what is there of it. Ends the command for an unknown name."""
    from linearsr.evaluation.datasets import DATASETS, check

    if name is None or root is None:
        return None, None
    if name not in DATASETS:
        stop(f"--dataset {name} is unknown: choose from {', '.join(DATASETS)}")
    return DATASETS[name], check(DATASETS[name], root)


def _report_check(name: str, root: str, dataset: "Dataset", layout: "Layout", as_json: bool) -> NoReturn:
    """Say whether the test set is complete, and end the command."""
    if as_json:
        checked = {"dataset": name, "root": root, "complete": not layout.problems}
        found = {"problems": layout.problems, "address": dataset.address, "published": dataset.published}
        write_json({**checked, **found})
    if layout.problems:
        say(f"{name} is not complete ({dataset.title}):")
        for problem in layout.problems:
            say(f"  {shown(problem)}")
        say(f"published at {dataset.address}")
        folders = "LR and HR images into the folders LR and HR" if dataset.has_hr else "LR images into LR"
        say(f"get it there and put its {folders} of {shown(root)}")
        raise typer.Exit(FAILED)
    say(f"{name} is complete ({dataset.title}): give PRED_DIR or --model to measure")
    if not as_json:
        _show_published(dataset.published)
    raise typer.Exit


@contextmanager
def _listed() -> Iterator[None]:
    """End the command with a line for each file where files do not match."""
    from linearsr.evaluation.matching import MatchError

    try:
        yield
    except MatchError as error:
        for line in f"linearsr: {error}".splitlines():
            say(shown(line))
        raise typer.Exit(WRONG_USE) from None


def _model_source(
    model: str | None,
    device: str,
    dtype: DType,
    asked: tuple[int, int | None, float | None],
    hr: Path | None,
    lr: Path | None,
    degrade: str,
    keep: Path | None,
) -> "Source":
    from linearsr.evaluation.sources import Results, digest
    from linearsr.model_folder import default_model_folder
    from linearsr.runtime.checkpoints import resolve_folder

    model = None if model == DEFAULT_MODEL else model
    pipeline = load_pipeline(model, device, dtype)
    settings: dict[str, Any] = {
        "model": pipeline.config.name,
        "weights": digest(default_model_folder() if model is None else resolve_folder(model)),
        "device": pipeline.device.type,
        "dtype": pipeline.arithmetic,
    }
    return Results(pipeline, *asked, settings, keep, hr, lr, degrade)


def _measure(
    source: "Source", chosen: "list[Metric]", records: "Records", border: int, device: str
) -> dict[str, Any]:
    from linearsr.evaluation.evaluate import measure

    place = choose_device(device)
    try:
        with told(OSError, status=FAILED), BatchProgress(len(source.cases)) as progress:

            def end(case: "Case", error: str | None) -> None:
                progress.finish_image()
                if error is not None:
                    say(f"{shown(case.name)}: {one_line(error)}")

            return measure(
                source,
                chosen,
                records,
                border=border,
                device=place,
                begin=lambda case: progress.start_image(Path(case.name)),
                end=end,
            )
    except KeyboardInterrupt:
        rest = "" if records.folder is None else "; the same command goes on where it was"
        stop(f"interrupted{rest}", INTERRUPTED)


def _say_unavailable(asked: "list[Metric]") -> None:
    """Before the work and not after it: what was asked for and cannot be had."""
    from linearsr.evaluation.registry import missing

    names = [metric.name for metric in asked if metric.pyiqa_name is not None]
    if names and (remedy := missing()) is not None:
        say(f"linearsr: not available: {', '.join(names)}: {remedy}")


def _add_rest(summary: dict[str, Any], chosen: "list[Metric]", has_reference: bool) -> None:
    """Name what was not measured too."""
    from linearsr.evaluation.registry import choose, missing

    rest = [metric.name for metric in choose(["all"], has_reference) if metric not in chosen]
    remedy = missing()
    summary["not_asked_for"] = rest if remedy is None else []
    if remedy is not None:
        summary["not_available"] |= dict.fromkeys(rest, remedy)


def _show(document: dict[str, Any]) -> None:
    """The summary of an evaluation, what is missing from it, and where its files are."""
    from linearsr.evaluation.evaluate import number, remarks

    screen = out()
    measured = table("metric", "better", "on", "mean", "median", "std", "images", numbers=3)
    for name, found in document["metrics"].items():
        better = "higher" if found["higher_is_better"] else "lower"
        figures = (number(found[key]) for key in ("mean", "median", "std"))
        measured.add_row(name, better, found["convention"], *figures, str(found["count"]))
    screen.print(measured)
    for line in remarks(document):
        screen.print(shown(line))
    if document["published"]:
        ours = {name: found["mean"] for name, found in document["metrics"].items()}
        _show_published([{"method": "measured", "values": ours, "source": ""}, *document["published"]])
    for file in document.get("files", []):
        screen.print(shown(file), soft_wrap=True)


def _show_published(lines: Sequence[Mapping[str, Any]]) -> None:
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
