"""`linearsr bench`: measure the speed and memory of a model on this machine."""

import re
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from linearsr.cli.console import FAILED, out, say, stop, table, told, write_json
from linearsr.cli.loading import load_pipeline
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
    device: Device = "auto",
    dtype: WeightType = "auto",
    threads: Threads = None,
    as_json: JsonDocument = False,
) -> None:
    """Measure how fast a model is, and how much memory it needs.

    Shows parameters, multiply-accumulates, the time of one network evaluation (1 NFE) and of a whole image, and peak
    memory.

        linearsr bench
        linearsr bench MODEL --sizes 64,128,256
    """
    import torch

    from linearsr.evaluation.benchmark import costs, device_name

    wanted = _parse_sizes(sizes)
    if threads is not None:
        torch.set_num_threads(threads)
    reports = []
    with told(status=FAILED):
        pipe = load_pipeline(model, device, dtype)
        for number, found in enumerate(costs(pipe, wanted, runs), 1):
            if len(wanted) > 1:
                say(f"{found['input'][0]}x{found['input'][1]}: done, {number} of {len(wanted)}")
            reports.append(found)
    report = {
        "model": pipe.config.name,
        "device": device_name(pipe.device),
        "arithmetic": pipe.arithmetic,
        "runs": runs,
        "steps": pipe.config.num_inference_steps,
        "sizes": reports,
    }
    write_json(report) if as_json else _show(report)


def _parse_sizes(text: str) -> "list[Size]":
    """Parse sizes such as "256,320x240" (width x height) into (height, width) pairs, without duplicates."""
    found = []
    for word in text.split(","):
        match = _SIZE.fullmatch(word.strip())
        if match is None:
            stop(f"--sizes {text}: {word.strip()!r} is not a size; write 256 or 320x240, separated by commas")
        width, height = match[1], match[2] or match[1]
        found.append((int(height), int(width)))
    return list(dict.fromkeys(found))


def _show(report: dict[str, Any]) -> None:
    screen = out()
    screen.print(f"{report['model']}: {report['arithmetic']} on {report['device']}", soft_wrap=True)
    parts = table("input", "part", "parameters", "GMAC")
    times = table("input", "output", "tokens", "1 NFE, s", "image, s", "peak")
    for size in report["sizes"]:
        name, result = ("x".join(map(str, size[key])) for key in ("input", "output"))
        for place, part in enumerate(size["parts"]):
            row = (part["part"], f"{part['parameters']:,}", f"{part['macs'] / 1e9:,.2f}")
            parts.add_row("" if place else name, *row)
        seconds = (f"{size[key]:.3f}" for key in ("nfe_seconds", "image_seconds"))
        times.add_row(name, result, f"{size['tokens']:,}", *seconds, f"{size['peak_gib']:.2f} GiB")
    screen.print(parts)
    steps = f"; MACs of the transformer are per step ({report['steps']} steps)" if report["steps"] > 1 else ""
    screen.print(times)
    runs = "1 run" if report["runs"] == 1 else f"median of {report['runs']} runs"
    screen.print(f"{runs}{steps}")
