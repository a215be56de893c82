"""`linearsr partition`: find from photos where to split the trajectory between experts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linearsr.cli.console import Bars, out, stop, table, told, write_json
from linearsr.cli.loading import check_degradation, check_figure, load_pipeline
from linearsr.cli.options import Degrade, Device, JsonDocument, Overwrite
from linearsr.jobs.messages import shown

if TYPE_CHECKING:
    from linearsr.flow.partition import Partition
    from linearsr.training.partition import TimeGradients


def partition(
    model: Annotated[str, Argument(metavar="MODEL", help="Model folder or hub id, of a model with experts.")],
    data: Annotated[Path, Option(metavar="HR_DIR", help="Folder of HR photos to measure on.")],
    degrade: Degrade = "mild",
    experts: Annotated[int, Option(min=1, help="Number of experts.")] = 4,
    images: Annotated[int, Option(min=1, help="Crops to measure on.")] = 64,
    times: Annotated[int, Option(min=2, max=200, help="Points of the grid in log-SNR.")] = 24,
    lr_crop: Annotated[int, Option(min=8, help="Side of an LR crop in pixels.")] = 32,
    seed: Annotated[int, Option(min=0, help="Random seed of crops, degradation and noise.")] = 0,
    device: Device = "auto",
    figure: Annotated[
        Path | None, Option(metavar="PNG", help="Plot cosines and boundaries into this file.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: JsonDocument = False,
) -> None:
    """Find the best boundaries between experts, from photos.

    Measures the gradients of the flow loss over log-SNR, and places the boundaries so that gradients agree as much as
    possible within each span. Also shows the published boundaries and equal spans in t and in log-SNR. The same seed
    and photos give the same boundaries.

        linearsr partition runs/mine/model --data photos/
        linearsr partition runs/mine/model --data photos/ --figure partition.png
    """
    from linearsr.evaluation.sources import find_images
    from linearsr.flow.partition import PUBLISHED, equal_in_log_snr, equal_in_time
    from linearsr.training.partition import EFFECTIVE_RANGE, measure

    check_degradation("--degrade", degrade)
    with told(ValueError):
        find_images(data)
    if experts > times:
        stop(f"--experts {experts}: a grid of {times} times allows at most {times}")
    if figure is not None:
        check_figure("--figure", figure, overwrite)
    pipeline = load_pipeline(model, device, "float32")
    with told(), Bars() as progress:
        task = progress.bars.add_task("gradients", total=None)
        gradients = measure(
            pipeline,
            data,
            degrade,
            images=images,
            times=times,
            lr_crop=lr_crop,
            seed=seed,
            progress=lambda done, total: progress.bars.update(task, completed=done, total=total),
        )
    found = gradients.partition(experts)
    partitions = {"found": found}
    if experts == PUBLISHED.num_experts:
        partitions["published"] = PUBLISHED
    partitions["equal in t"] = equal_in_time(experts)
    partitions["equal in log-SNR"] = equal_in_log_snr(experts, *EFFECTIVE_RANGE)
    report = {
        "model": pipeline.config.name,
        "degrade": degrade,
        "experts": experts,
        "images": images,
        "seed": seed,
        **_described(found, gradients),
        "spread": gradients.spread(experts, seed),
        "others": {name: _described(each, gradients) for name, each in partitions.items() if each != found},
        "grid": list(gradients.log_snrs),
        "similarity": gradients.similarity.round(5).tolist(),
    }
    if figure is not None:
        from linearsr.training.partition import draw_partition

        with told(OSError, begin="--figure "):
            draw_partition(gradients, partitions, figure)
        report["figure"] = str(figure)
    write_json(report) if as_json else _show(report)


def _described(partition: "Partition", gradients: "TimeGradients") -> dict[str, Any]:
    from linearsr.flow.path import log_snr

    return {
        "boundaries": [round(boundary, 5) for boundary in partition.boundaries],
        "log_snr": [round(log_snr(boundary), 4) for boundary in partition.boundaries],
        "agreement": round(gradients.agreement(partition), 4),
    }


def _show(report: dict[str, Any]) -> None:
    screen, spans = out(), table("partition", "boundaries t", "log-SNR", "agreement", ruled=True)
    for name, row in {"found": report, **report["others"]}.items():
        boundaries, log_snrs = (
            "  ".join(format(value, form) for value in row[key])
            for key, form in (("boundaries", ".3f"), ("log_snr", "+.2f"))
        )
        spans.add_row(name, boundaries or "-", log_snrs or "-", f"{row['agreement']:.3f}")
    screen.print(spans)
    if report["spread"]:
        spread = "  ".join(f"{low:.3f}-{high:.3f}" for low, high in report["spread"])
        screen.print(f"80% of redraws of the crops  {spread}")
    if "figure" in report:
        screen.print(f"figure {shown(report['figure'])}", soft_wrap=True)
