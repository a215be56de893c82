"""`linearsr bench`: what a model costs on this machine, and how that grows with the picture."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from linearsr.cli.console import FAILED, out, say, stop, table, told, write_json
from linearsr.cli.loading import choose_device, load_pipeline
from linearsr.cli.options import BuiltInOrModel, Device, JsonDocument, Threads, WeightType

if TYPE_CHECKING:
    from linearsr.evaluation.benchmark import Size

_SIZE = re.compile(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?")


def bench(
    model: BuiltInOrModel = None,
    sizes: Annotated[
        str,
        Option(metavar="LIST", help="LR sizes, separated by commas: 256 or 320x240 (width x height)."),
    ] = "256",
    runs: Annotated[int, Option(min=1, help="Timed runs of each; the median is shown.")] = 5,
    softmax: Annotated[
        bool, Option("--softmax", help="Also time the same network with quadratic attention.")
    ] = False,
    preset: Annotated[
        str | None,
        Option(help="Measure a transformer with random weights instead: tiny, default, 600m or 1600m."),
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
        linearsr bench --preset default --sizes 64,128,256 --softmax
        linearsr bench --preset 600m --device cuda --dtype bfloat16
    """
    import torch

    wanted = _parse_sizes(sizes)
    if preset is not None and model is not None:
        stop("give either a model or --preset, not both")
    if threads is not None:
        torch.set_num_threads(threads)
    with told(status=FAILED):
        report = _measure(runs, softmax, model, preset, wanted, device, dtype)
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
    runs: int,
    softmax: bool,
    model: str | None,
    preset: str | None,
    sizes: "Sequence[Size]",
    device: str,
    dtype: WeightType,
) -> dict[str, Any]:
    import torch

    from linearsr.evaluation.benchmark import device_name, of_model, of_preset, summary
    from linearsr.models.presets import PRESETS
    from linearsr.runtime.devices import best_dtype

    if preset is None:
        pipe = load_pipeline(model, device, dtype)
        name, place, type_, steps = pipe.config.name, pipe.device, pipe.dtype, pipe.config.num_inference_steps
        measured = of_model(pipe, sizes, runs, softmax)
    else:
        if preset not in PRESETS:
            stop(f"--preset {preset}: choose from {', '.join(PRESETS)}")
        place = choose_device(device)
        type_ = best_dtype(place) if dtype == "auto" else getattr(torch, dtype)
        name, steps = f"preset {preset}", 1
        measured = of_preset(preset, sizes, place, type_, runs, softmax)
    reports = []
    for number, found in enumerate(measured, 1):
        if len(sizes) > 1:
            say(f"{found['input'][0]}x{found['input'][1]}: done, {number} of {len(sizes)}")
        reports.append(found)
    return {
        "model": name,
        "device": device_name(place),
        "dtype": str(type_).removeprefix("torch."),
        "runs": runs,
        "steps": steps,
        **summary(reports),
    }


def _show(report: dict[str, Any]) -> None:
    screen = out()
    screen.print(f"{report['model']}: {report['dtype']} on {report['device']}", soft_wrap=True)
    parts = table("input", "part", "parameters", "GMAC")
    times = table("input", "output", "tokens", "1 NFE, s", "image, s", "peak", "softmax, s")
    for size in report["sizes"]:
        name, result = ("x".join(map(str, size[key])) for key in ("input", "output"))
        for place, part in enumerate(size["parts"]):
            row = (part["part"], f"{part['parameters']:,}", f"{part['macs'] / 1e9:,.2f}")
            parts.add_row("" if place else name, *row)
        seconds = [size[key] for key in ("nfe_seconds", "image_seconds", "softmax_seconds")]
        one, image, quadratic = ("" if value is None else f"{value:.3f}" for value in seconds)
        if size["softmax_expected"] is not None and not quadratic:
            quadratic = f"too slow: ~{size['softmax_expected']:,.0f}"
        peak = f"{size['peak_gib']:.2f} GiB"
        times.add_row(name, result, f"{size['tokens']:,}", one, image, peak, quadratic)
    screen.print(parts)
    steps = f"; MACs of the transformer are per step ({report['steps']} steps)" if report["steps"] > 1 else ""
    screen.print(times)
    screen.print(f"median of {report['runs']} runs{steps}; ~: estimated from multiply-accumulates")
    if report["exponents"]:
        screen.print("growth of the time of one evaluation:")
    for network, power in report["exponents"].items():
        steps = ", ".join(f"{step:.2f}" for step in report["exponents_by_step"][network])
        screen.print(f"{network}: tokens to the power {power:.2f} (from size to size {steps})")
