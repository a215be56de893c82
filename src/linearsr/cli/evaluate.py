"""`linearsr eval`: measure the quality of results."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

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
from linearsr.cli.loading import check_degradation, choose_device, load_pipeline
from linearsr.cli.options import Degrade, Fidelity, JsonDocument, Seed, Steps, WeightType
from linearsr.jobs.messages import heard, one_line, shown, warning_text
from linearsr.jobs.names import check_folder

if TYPE_CHECKING:
    from linearsr.evaluation.records import Records
    from linearsr.evaluation.registry import Metric
    from linearsr.evaluation.sources import Case, Source

_OF_MODEL = ("degrade", "seed", "steps", "fidelity", "tags", "dtype")
"""Options of a model, refused with PRED_DIR, whose results exist already."""


def evaluate(
    context: typer.Context,
    pred_dir: Annotated[
        Path | None, Argument(metavar="PRED_DIR", help="Folder of results to measure.")
    ] = None,
    hr_dir: Annotated[
        Path | None,
        Argument(metavar="HR_DIR", help="Folder of their HR images; without it, metrics without reference."),
    ] = None,
    model: Annotated[
        str | None, Option(help="Measure a model: folder, hub id, or 'default' for the built-in one.")
    ] = None,
    data: Annotated[
        Path | None,
        Option(metavar="HR_DIR", help="Photos to degrade and restore. Default model: the built-in one."),
    ] = None,
    lr: Annotated[
        Path | None,
        Option(metavar="LR_DIR", help="LR images to restore; with --data, those of its photos."),
    ] = None,
    degrade: Degrade = "mild",
    seed: Seed = 0,
    steps: Steps = None,
    fidelity: Fidelity = None,
    tags: Annotated[
        Path | None,
        Option(
            metavar="FILE.json",
            help="Tags or sentences of the photos, as `data.tags` of training. Default: as the model does by itself.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        Option(metavar="A,B,...", help="Metrics to measure, or all. Default: those without a download."),
    ] = None,
    border: Annotated[int, Option(min=0, help="Pixels to cut off each side before measuring.")] = 0,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="OUT_DIR",
            help="Folder for the figures (CSV, JSON) and a model's results.",
        ),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Measure again what OUT_DIR has.")] = False,
    device: Annotated[str, Option(help="Device of the model and of metrics that are networks.")] = "auto",
    dtype: WeightType = "auto",
    as_json: JsonDocument = False,
) -> None:
    """Measure the quality of results, or of a model on degraded photos or given LR images.

    Files match by name: photo_x4.png is a result of photo.jpg. With -o, the same command resumes a stopped run.

    Default metrics: psnr_y, ssim_y, psnr_rgb, ssim_rgb, ms_ssim, haarpsi, lpips, niqe.

    With pyiqa installed: lpips_vgg, dists, musiq, maniqa, maniqa_koniq, clipiqa, topiq.

        linearsr eval results/ HR/
        linearsr eval --data HR/ --degrade mild -o out/
        linearsr eval --data RealSR/HR/ --lr RealSR/LR/
    """
    from linearsr.evaluation.evaluate import settings_of
    from linearsr.evaluation.matching import MatchError
    from linearsr.evaluation.records import PER_IMAGE, SUMMARY, open_records
    from linearsr.evaluation.registry import choose, missing
    from linearsr.evaluation.sources import Folders, Results

    check_degradation("--degrade", degrade)
    _check_use(context, pred_dir, model, data, lr)
    hr = hr_dir or data
    with told(ValueError):
        chosen = choose(None if metrics is None else metrics.replace(" ", "").split(","), hr is not None)
    if output is not None:
        _check_output(output, filter(None, (pred_dir, hr, lr)))
    asked = [] if metrics is None else chosen
    # say so before the work, not after it
    if (downloads := [m.name for m in asked if m.pyiqa_name is not None]) and (remedy := missing()):
        say(f"linearsr: not available: {', '.join(downloads)}: {remedy}")
    with told(ValueError, OSError):
        listed = None if tags is None else _tags_in(tags)
        source: Source
        try:
            if pred_dir is None:
                pipeline = load_pipeline(model, device, dtype)
                keep = None if output is None else output / "results"
                source = Results(pipeline, model, seed, steps, fidelity, keep, hr, lr, degrade, listed)
            else:
                source = Folders(pred_dir, hr)
        except MatchError as error:
            say("\n".join(shown(line) for line in f"linearsr: {error}".splitlines()))
            raise typer.Exit(WRONG_USE) from None
        names, settings = [metric.name for metric in chosen], settings_of(source, chosen, border)
        with open_records(output, names, settings, overwrite) as records:
            summary = _measure(source, chosen, records, border, device)
    files = [] if output is None else [str(output / name) for name in (PER_IMAGE, SUMMARY)]
    write_json({**summary, "files": files}) if as_json else _show(summary, files)
    if summary["failed"] or any(metric.name in summary["not_available"] for metric in asked):
        raise typer.Exit(FAILED)
    if not any(found["count"] + found["infinite"] for found in summary["metrics"].values()):
        stop("nothing could be measured: give other images or --metrics", FAILED)


def _check_use(
    context: typer.Context, pred_dir: Path | None, model: str | None, data: Path | None, lr: Path | None
) -> None:
    sources = {f"--{name}": context.get_parameter_source(name) for name in _OF_MODEL}
    of_model = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if pred_dir and (model or data or lr):
        stop("give either PRED_DIR or a model (--model, --data, --lr), not both")
    if pred_dir and of_model:
        stop(
            f"{' and '.join(of_model)}: results in PRED_DIR are made already: leave that out, or give --data HR_DIR"
        )
    if lr and "--degrade" in of_model:
        stop("--degrade makes LR images, and --lr gives them: leave out one of them")
    if model and not (data or lr):
        stop("--model needs photos: give --data HR_DIR or --lr LR_DIR")
    if not (pred_dir or data or lr):
        stop("nothing to measure: give PRED_DIR HR_DIR, or --data HR_DIR or --lr LR_DIR for a model")


def _check_output(output: Path, measured: Iterable[Path]) -> None:
    with told():
        check_folder(output)
    for folder in measured:
        if folder.resolve() in (output.resolve(), *output.resolve().parents):
            stop(f"-o {shown(output)} lies in {shown(folder)}, which is measured: choose another place")


def _tags_in(file: Path) -> Callable[[Path], list[str]]:
    """Return a function that looks up the tags of a photo in `file`.

    The function raises ValueError when the file does not name the photo.
    """
    from linearsr.training.photo_tags import name_in, read_tags

    listed = read_tags(file, "--tags")

    def of(photo: Path) -> list[str]:
        name = name_in(file, photo)
        if name not in listed:
            raise ValueError(f"--tags: {file} does not name {name!r}: add it, with [] for none")
        return listed[name]

    return of


def _measure(
    source: "Source", chosen: "list[Metric]", records: "Records", border: int, device: str
) -> dict[str, Any]:
    from linearsr.evaluation.evaluate import measure

    place = choose_device(device)
    try:
        with told(OSError, status=FAILED), heard() as notes, BatchProgress(len(source.cases)) as progress:
            said: set[str] = set()

            def end(case: "Case", error: str | None) -> None:
                progress.finish_image()
                for warning in map(warning_text, notes):
                    if warning not in said:
                        say(f"warning: {warning}")
                    said.add(warning)
                notes.clear()
                if error is not None:
                    say(f"{shown(case.name)}: {one_line(error)}")

            def begin(case: "Case") -> None:
                progress.start_image(Path(case.name))

            return measure(source, chosen, records, border=border, device=place, begin=begin, end=end)
    except KeyboardInterrupt:
        rest = "" if records.folder is None else "; the same command resumes it"
        stop(f"interrupted{rest}", INTERRUPTED)


def _show(document: dict[str, Any], files: list[str]) -> None:
    """Print the summary of an evaluation, the remarks on it, and the paths of its files."""
    from linearsr.evaluation.evaluate import remarks

    screen = out()
    measured = table("metric", "better", "on", "mean", "median", "std", "images", numbers=3)
    for name, found in document["metrics"].items():
        better = "higher" if found["higher_is_better"] else "lower"
        figures = ("-" if found[key] is None else f"{found[key]:.5g}" for key in ("mean", "median", "std"))
        measured.add_row(name, better, found["convention"], *figures, str(found["count"]))
    screen.print(measured)
    for line in remarks(document):
        screen.print(shown(line))
    for file in files:
        screen.print(shown(file), soft_wrap=True)
