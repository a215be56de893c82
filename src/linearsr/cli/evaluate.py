"""`linearsr eval`: how good results are, measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linearsr.cli.console import FAILED, INTERRUPTED, BatchProgress, out, say, stop, table, told, write_json
from linearsr.cli.evaluate_inputs import (
    Inputs,
    check_apart,
    check_inputs,
    look_at,
    open_source,
    report_check,
    show_published,
)
from linearsr.cli.loading import choose_device
from linearsr.cli.options import Degrade, Fidelity, JsonDocument, Steps, WeightType
from linearsr.jobs.messages import one_line, shown
from linearsr.jobs.names import check_folder

if TYPE_CHECKING:
    from linearsr.evaluation.records import Records
    from linearsr.evaluation.registry import Metric
    from linearsr.evaluation.sources import Case, Source


def evaluate(
    pred_dir: Annotated[
        Path | None, typer.Argument(metavar="PRED_DIR", help="Folder of results to be measured.")
    ] = None,
    hr_dir: Annotated[
        Path | None,
        typer.Argument(metavar="HR_DIR", help="Their HR images. Without: no-reference metrics."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Measure a model instead: folder, hub id, or 'default' for the one built in."),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="HR_DIR", help="Photos for the model.")] = None,
    degrade: Degrade = "mild",
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the degradation and the model's noise.")
    ] = 0,
    steps: Steps = None,
    fidelity: Fidelity = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="realsr, drealsr, reallq250 or div2k-val: check it, or measure PRED_DIR or --model."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the dataset, with LR and HR in it.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="By name, or all. Default: all that need no download."),
    ] = None,
    border: Annotated[int, typer.Option(min=0, help="Pixels cut off at each side first.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT_DIR", help="For per_image.csv, summary.json, report.html."
        ),
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
    from linearsr.evaluation.registry import choose
    from linearsr.evaluation.report import write_report

    inputs = Inputs(pred_dir, hr_dir, model, data, degrade, dataset, root, seed, steps, fidelity)
    check_inputs(inputs)
    known, layout = (None, None) if dataset is None else look_at(dataset, root)
    has_reference = layout.hr is not None if layout is not None else (hr_dir or data) is not None
    with told(ValueError):
        chosen = choose(None if metrics is None else metrics.replace(" ", "").split(","), has_reference)
    if known is not None and layout is not None and (layout.problems or (pred_dir or model) is None):
        report_check(inputs, known, layout, as_json)
    if output is not None:
        with told():
            check_folder(output)
        check_apart(output, inputs)
    source = open_source(inputs, layout, device, dtype, output)
    asked = [] if metrics is None else chosen
    with _open_records(source, chosen, border, output, overwrite) as records:
        _say_unavailable(asked)
        summary = _measure(source, chosen, records, border, device)
        if metrics is None:
            _add_rest(summary, chosen, has_reference)
        published = [] if known is None else known.published
        document = {**summary, "dataset": dataset, "published": published}
        if output is not None:
            with told(OSError, status=FAILED):
                write_report(output / "report.html", summary, source, records, published)
            files = ("per_image.csv", "summary.json", "report.html")
            document["files"] = [str(output / name) for name in files]
    if as_json:
        write_json(document)
    else:
        _show(document)
    if summary["failed"] or any(metric.name in summary["not_available"] for metric in asked):
        raise typer.Exit(FAILED)


def _open_records(
    source: "Source", chosen: "list[Metric]", border: int, output: Path | None, overwrite: bool
) -> "Records":
    from linearsr.evaluation.evaluate import settings_of
    from linearsr.evaluation.records import Records

    single = [metric.name for metric in chosen if metric.kind != "set"]
    with told(ValueError, OSError):
        return Records.open(output, single, settings_of(source, chosen, border), overwrite)


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
        show_published([{"method": "measured", "values": ours, "source": ""}, *document["published"]])
    for file in document.get("files", []):
        screen.print(shown(file), soft_wrap=True)
