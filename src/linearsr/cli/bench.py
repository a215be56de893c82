"""`linearsr bench`: what a model costs on this machine, and how that grows with the picture."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from linearsr.cli.console import FAILED, needing, out, say, stop, table, told, write_json
from linearsr.cli.loading import check_figure, choose_device, load_pipeline
from linearsr.cli.options import BuiltInOrModel, Device, JsonDocument, Threads, WeightType
from linearsr.jobs.messages import shown

if TYPE_CHECKING:
    from linearsr.evaluation.benchmark import Benchmark, Report, Size

_SIZE = re.compile(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?")


def bench(
    model: BuiltInOrModel = None,
    sizes: Annotated[
        str,
        Option(metavar="LIST", help="LR sizes, separated by commas: 256 or 320x240 (width x height)."),
    ] = "256",
    runs: Annotated[int, Option(min=1, help="Timed runs of each; the median is shown.")] = 5,
    compare: Annotated[
        list[str] | None,
        Option(
            metavar="NETWORK",
            help="Also time another network: softmax (quadratic attention) or diffusers (its SANA class); repeatable.",
        ),
    ] = None,
    max_seconds: Annotated[
        float, Option(min=0, help="Seconds per evaluation above which --compare only estimates.")
    ] = 60.0,
    compiled: Annotated[
        bool, Option("--compile", help="Use torch.compile with CUDA graphs; needs CUDA.")
    ] = False,
    preset: Annotated[
        str | None,
        Option(help="Measure a transformer with random weights instead: tiny, default, 600m or 1600m."),
    ] = None,
    figure: Annotated[
        Path | None, Option(metavar="PNG", help="Plot time against size into this file.")
    ] = None,
    device: Device = "auto",
    dtype: WeightType = "auto",
    threads: Threads = None,
    as_json: JsonDocument = False,
) -> None:
    """Measure how fast a model is, and how much memory it needs.

    Shows parameters, multiply-accumulates, the time of one network evaluation (1 NFE) and of a whole image, and peak
    memory. With several sizes, also how the time grows: an exponent of 1 is linear in the number of tokens, 2 is
    quadratic.

        linearsr bench
        linearsr bench --preset default --sizes 64,128,256 --compare softmax
        linearsr bench --preset 600m --device cuda --dtype bfloat16
    """
    import torch

    from linearsr.evaluation.benchmark import Benchmark
    from linearsr.evaluation.rivals import RIVALS

    wanted = _parse_sizes(sizes)
    unknown = [name for name in compare or () if name not in RIVALS]
    if unknown:
        stop(f"--compare {unknown[0]}: choose from {', '.join(RIVALS)}")
    if preset is not None and model is not None:
        stop("give either a model or --preset, not both")
    if figure is not None:
        if len(wanted) < 2:
            stop(f"--figure {shown(figure)}: needs two sizes or more")
        check_figure("--figure", figure, overwrite=True)
    if threads is not None:
        torch.set_num_threads(threads)
    if compiled and choose_device(device).type != "cuda":
        stop("--compile needs a CUDA device: leave it out")
    rivals = tuple(name for name in RIVALS if name in (compare or ()))
    benchmark = Benchmark(runs, rivals, compiled, max_seconds)
    with told(status=FAILED), needing("--compare diffusers", "full"):
        report, reports = _measure(benchmark, model, preset, wanted, device, dtype)
    if figure is not None:
        from linearsr.evaluation.benchmark import draw_scaling

        with told(OSError, begin="--figure ", status=FAILED):
            draw_scaling(reports, f"{report['model']}, {report['dtype']}, {report['device']}", figure)
    write_json(report) if as_json else _show(report)


def _parse_sizes(text: str) -> "list[Size]":
    """(height, width) of each."""
    found = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        if match is None:
            stop(f"--sizes {text}: {word.strip()!r} is not a size; write 256 or 320x240, separated by commas")
        width, height = match[1], match[2] or match[1]
        found.append((int(height), int(width)))
    return list(dict.fromkeys(found))


def _measure(
    benchmark: "Benchmark",
    model: str | None,
    preset: str | None,
    sizes: "Sequence[Size]",
    device: str,
    dtype: WeightType,
) -> "tuple[dict[str, Any], list[Report]]":
    import torch

    from linearsr.evaluation.benchmark import device_name, summary, versions
    from linearsr.models.transformer_config import PRESETS
    from linearsr.runtime.devices import best_dtype

    if preset is None:
        pipe = load_pipeline(model, device, dtype)
        name, place, type_, steps = pipe.config.name, pipe.device, pipe.dtype, pipe.config.num_inference_steps
        measured = benchmark.of_model(pipe, sizes)
    else:
        if preset not in PRESETS:
            stop(f"--preset {preset}: choose from {', '.join(PRESETS)}")
        place = choose_device(device)
        type_ = best_dtype(place) if dtype == "auto" else getattr(torch, dtype)
        name, steps = f"preset {preset}", 1
        measured = benchmark.of_preset(preset, sizes, place, type_)
    reports = []
    for number, found in enumerate(measured, 1):
        if len(sizes) > 1:
            say(f"{found['input'][0]}x{found['input'][1]}: done, {number} of {len(sizes)}")
        reports.append(found)
    report = {
        "model": name,
        "device": device_name(place),
        "dtype": str(type_).removeprefix("torch."),
        "versions": versions(),
        "runs": benchmark.runs,
        "steps": steps,
        **summary(reports),
    }
    return report, reports


def _show(report: dict[str, Any]) -> None:
    screen = out()
    found = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    screen.print(f"{report['model']}: {report['dtype']} on {report['device']}\n{found}", soft_wrap=True)
    parts = table("input", "part", "parameters", "GMAC")
    times = table("input", "output", "tokens", "1 NFE, s", "image, s", "MP/s", "peak")
    rivals = list(report["sizes"][0]["compare"])
    beside = table("input", "tokens", "ours", *rivals)
    for size in report["sizes"]:
        name, result = ("x".join(map(str, size[key])) for key in ("input", "output"))
        tokens, rate = f"{size['tokens']:,}", size["megapixels_per_second"]
        for place, part in enumerate(size["parts"]):
            row = (part["part"], f"{part['parameters']:,}", f"{part['macs'] / 1e9:,.2f}")
            parts.add_row("" if place else name, *row)
        seconds = [
            "" if timing is None else f"{timing['median']:.3f} ±{(timing['high'] - timing['low']) / 2:.3f}"
            for timing in (size["nfe_seconds"], size["image_seconds"])
        ]
        pace = "" if rate is None else f"{rate:.2f}"
        times.add_row(name, result, tokens, *seconds, pace, f"{size['peak_gib']:.2f} GiB")
        ours = size["nfe_seconds"]["median"]
        beside.add_row(name, tokens, f"{ours:.3f} s", *(_beside(size, rival, ours) for rival in rivals))
    screen.print(parts)
    steps = f"; MACs of the transformer are per step ({report['steps']} steps)" if report["steps"] > 1 else ""
    screen.print(times)
    screen.print(f"median of {report['runs']} runs ± half the interquartile range{steps}")
    if rivals:
        screen.print(beside)
        screen.print(
            "time of one evaluation (1 NFE), and its ratio to ours; ~: estimated from multiply-accumulates"
        )
    if report["exponents"]:
        screen.print("growth of the time of one evaluation:")
    for network, power in report["exponents"].items():
        steps = ", ".join(f"{step:.2f}" for step in report["exponents_by_step"][network])
        screen.print(f"{network}: tokens to the power {power:.2f} (from size to size {steps})")


def _beside(size: dict[str, Any], rival: str, ours: float) -> str:
    timing, expected = size["compare"][rival], size["expected_seconds"][rival]
    if timing is None:
        return f"too slow: ~{expected:,.0f} s ({expected / ours:.0f})"
    return f"{timing['median']:.3f} s ({timing['median'] / ours:.2f})"
