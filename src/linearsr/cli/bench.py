"""`linearsr bench`: what a model costs on this machine, and how that grows with the picture."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linearsr.cli.console import FAILED, needing, out, say, stop, table, told, write_json
from linearsr.cli.loading import choose_device, load_pipeline
from linearsr.cli.options import BuiltInOrModel, Device, JsonDocument, Threads, WeightType
from linearsr.jobs.messages import failure, shown

if TYPE_CHECKING:
    from linearsr.evaluation.benchmark import Benchmark, Size, SizeReport
    from linearsr.evaluation.timing import Timing

_SIZE = re.compile(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?")


def bench(
    model: BuiltInOrModel = None,
    sizes: Annotated[
        str, typer.Option(metavar="LIST", help="LR sizes, as 256 or 320x240, with commas.")
    ] = "256",
    runs: Annotated[int, typer.Option(min=1, help="Calls to take the median of.")] = 5,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NETWORK", help="Beside ours: softmax (quadratic), diffusers (SANA); repeatable."
        ),
    ] = None,
    max_seconds: Annotated[
        float, typer.Option(min=0, help="Leave out a comparison that would take longer.")
    ] = 60.0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="On CUDA: torch.compile with CUDA graphs for the transformer.")
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="One random transformer: tiny, default, 600m or 1600m.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the growth over sizes.")] = None,
    device: Device = "auto",
    dtype: WeightType = "auto",
    threads: Threads = None,
    as_json: JsonDocument = False,
) -> None:
    """Measure parameters, multiply-accumulates, times and memory of a model at one or more sizes.

    Times are medians after a warm-up; one evaluation (1 NFE) and the whole image are reported apart. With two sizes or
    more, the exponent of the growth is fitted: 1 is linear in the tokens, 2 quadratic.
    """
    import torch

    from linearsr.evaluation.benchmark import Benchmark
    from linearsr.evaluation.rivals import RIVALS

    wanted = _parse_sizes(sizes)
    unknown = [name for name in compare or () if name not in RIVALS]
    if unknown:
        stop(f"--compare {unknown[0]}: choose from {', '.join(RIVALS)}")
    if preset is not None and model is not None:
        stop("give either a model or --preset")
    if figure is not None and (len(wanted) < 2 or not figure.absolute().parent.is_dir()):
        reason = "needs two sizes or more" if len(wanted) < 2 else "its folder does not exist"
        stop(f"--figure {shown(figure)}: {reason}")
    if threads is not None:
        torch.set_num_threads(threads)
    if compiled and choose_device(device).type != "cuda":
        stop("--compile records CUDA graphs: leave it out on other devices")
    rivals = tuple(name for name in RIVALS if name in (compare or ()))
    benchmark = Benchmark(runs, rivals, compiled, max_seconds)
    with told(status=FAILED), needing("--compare diffusers", "full"):
        report, reports = _measure(benchmark, model, preset, wanted, device, dtype)
    if figure is not None:
        _draw(reports, report, figure)
    if as_json:
        write_json(report)
    else:
        _show(report)


def _parse_sizes(text: str) -> "list[Size]":
    """(height, width) of each."""
    found = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        if match is None:
            stop(
                f"--sizes {text}: {word.strip()!r} is no size; write 256 or 320x240, with commas between them"
            )
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
) -> "tuple[dict[str, Any], list[SizeReport]]":
    import torch

    from linearsr.evaluation.benchmark import curves, device_name, exponent, local_exponents, versions
    from linearsr.models.presets import PRESETS
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
            say(f"{found.size[1]}x{found.size[0]}: done, {number} of {len(sizes)}")
        reports.append(found)
    grown = {name: curve for name, curve in curves(reports).items() if len(set(curve[0])) > 1}
    report = {
        "model": name,
        "device": device_name(place),
        "dtype": str(type_).removeprefix("torch."),
        "versions": versions(),
        "runs": benchmark.runs,
        "steps": steps,
        "sizes": [_as_json(found) for found in reports],
        "exponents": {network: round(exponent(*curve), 3) for network, curve in grown.items()},
        "exponents_by_step": {
            network: [round(step, 3) for step in local_exponents(*curve)] for network, curve in grown.items()
        },
    }
    return report, reports


def _as_json(report: "SizeReport") -> dict[str, Any]:
    def timing(found: "Timing | None") -> dict[str, Any] | None:
        return None if found is None else {key: round(value, 5) for key, value in found._asdict().items()}

    rate = report.megapixels_per_second
    return {
        "input": [report.size[1], report.size[0]],
        "output": [report.output[1], report.output[0]],
        "tokens": report.tokens,
        "parts": [part._asdict() for part in report.parts],
        "nfe_seconds": timing(report.evaluation),
        "image_seconds": timing(report.image),
        "peak_gib": round(report.peak_bytes / 2**30, 3),
        "megapixels_per_second": None if rate is None else round(rate, 3),
        "compare": {rival: timing(found) for rival, found in report.rivals.items()},
        "expected_seconds": {rival: round(seconds, 3) for rival, seconds in report.expected.items()},
    }


def _draw(reports: "Sequence[SizeReport]", report: dict[str, Any], figure: Path) -> None:
    from linearsr.evaluation.benchmark import draw_scaling

    try:
        draw_scaling(reports, f"{report['model']}, {report['dtype']}, {report['device']}", figure)
    except ModuleNotFoundError:
        say("linearsr: no figure, as matplotlib is missing: pip install 'linearsr[train]'")
    except OSError as error:
        say(f"linearsr: no figure: {failure(error, figure)}")
    else:
        say(f"drawn: {shown(figure)}")


def _show(report: dict[str, Any]) -> None:
    screen = out()
    found = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    screen.print(f"{report['model']}: {report['dtype']} on {report['device']}\n{found}", soft_wrap=True)
    parts = table("input", "part", "parameters", "GMAC")
    times = table("input", "output", "tokens", "1 NFE, s", "image, s", "MP/s", "peak")
    rivals = list(report["sizes"][0]["compare"])
    beside = table("input", "tokens", "ours", *rivals)
    for size in report["sizes"]:
        name, tokens = "x".join(map(str, size["input"])), f"{size['tokens']:,}"
        for place, part in enumerate(size["parts"]):
            row = (part["part"], f"{part['parameters']:,}", f"{part['macs'] / 1e9:,.2f}")
            parts.add_row("" if place else name, *row)
        rate, output = size["megapixels_per_second"], "x".join(map(str, size["output"]))
        seconds = _seconds(size["nfe_seconds"]), _seconds(size["image_seconds"])
        speed = "" if rate is None else f"{rate:.2f}"
        times.add_row(name, output, tokens, *seconds, speed, f"{size['peak_gib']:.2f} GiB")
        ours = f"{size['nfe_seconds']['median']:.3f} s"
        beside.add_row(name, tokens, ours, *(_beside(size, rival) for rival in rivals))
    screen.print(parts)
    steps = f"; the transformer's MACs are of one of {report['steps']} steps" if report["steps"] > 1 else ""
    screen.print(times)
    screen.print(f"medians of {report['runs']} runs, ± half of the quartiles' distance{steps}")
    if rivals:
        screen.print(beside)
        screen.print("one evaluation (1 NFE), and its time over ours; ~: by its multiply-accumulates")
    if report["exponents"]:
        screen.print("growth of the time of one evaluation:")
    for network, power in report["exponents"].items():
        steps = ", ".join(f"{step:.2f}" for step in report["exponents_by_step"][network])
        screen.print(f"{network}: tokens to the power {power:.2f} (from size to size {steps})")


def _seconds(timing: dict[str, Any] | None) -> str:
    return f"{timing['median']:.3f} ±{(timing['high'] - timing['low']) / 2:.3f}" if timing else ""


def _beside(size: dict[str, Any], rival: str) -> str:
    ours, timing = size["nfe_seconds"]["median"], size["compare"][rival]
    if timing is None:
        expected = size["expected_seconds"][rival]
        return f"too slow: ~{expected:,.0f} s ({expected / ours:.0f})"
    return f"{timing['median']:.3f} s ({timing['median'] / ours:.2f})"
