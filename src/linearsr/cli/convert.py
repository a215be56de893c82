"""`linearsr convert`: a model in another form - started from SANA's weights, in 8 bits, for OpenVINO."""

from enum import Enum
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from linearsr.cli.console import debugging, failure, say, shown, stop, write_json
from linearsr.cli.options import JsonDocument
from linearsr.cli.outputs import check_folder

_FIRST_BLOCKS = 16
"""So many of the stem's may be left in floating point."""
_LEAST_AGREEMENT = 45.0
"""PSNR in dB against float32 below which an image is not the same any more."""
_MOST_PHOTOS = 6


class Form(str, Enum):
    """What a model can be converted to."""

    model = "model"
    int8 = "int8"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="Folder or hub id of a SANA or a LinearSR; 'default' is the one built in."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the converted model.")
    ],
    to: Annotated[
        Form, typer.Option(help="model: a SANA as the start of a full-size LinearSR; int8: faster on CPUs.")
    ] = Form.model,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos on which the ranges for 8 bits are found.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that has files.")
    ] = False,
    as_json: JsonDocument = False,
) -> None:
    """Convert a model: SANA's weights to a LinearSR to be trained, or a LinearSR to a faster form."""
    check_folder(output)
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        stop(f"{shown(output)} has files already: name another folder, or add --overwrite")
    if (photos is None) == (to is Form.int8):
        stop("--to int8 needs --photos, a folder of photos, and nothing else takes it")
    try:
        report = _to_int8(source, output, photos) if photos is not None else _to_model(source, output)
    except typer.Exit:
        raise
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))
    if as_json:
        write_json({"output": str(output), **report})
    else:
        say(f"{shown(output)}: {report['note']}")


def _to_model(source: str, output: Path) -> dict[str, Any]:
    from linearsr.backends.sana import PARTS, is_sana, start_from_sana
    from linearsr.checkpoints import resolve_folder

    folder = resolve_folder(source, PARTS)
    if not is_sana(folder):
        stop(f"{source} is no SANA in diffusers format: for a LinearSR, say what to make of it with --to")
    pipeline = start_from_sana(folder)
    pipeline.save_pretrained(output)
    parameters = sum(p.numel() for p in pipeline.transformer.parameters())
    return {
        "parameters": parameters,
        "guidance": None if pipeline.guidance is None else pipeline.guidance.kind,
        "note": f"{parameters / 1e6:,.0f} million parameters; its LR inputs are zero: train it (linearsr train)",
    }


def _to_int8(source: str, output: Path, photos: Path) -> dict[str, Any]:
    import torch

    from linearsr.backends.int8_ranges import (
        agreement,
        lr_images,
        observed_ranges,
        without_first_blocks,
        write_with_ranges,
    )
    from linearsr.checkpoints import resolve_folder
    from linearsr.images.files import list_images
    from linearsr.model_folder import default_model_folder
    from linearsr.models.int8 import supported
    from linearsr.pipeline import LinearSRPipeline

    files = list_images(photos)
    if len(files) < 2:
        stop(f"{shown(photos)}: two photos at least are needed, one to find ranges on and one to check them")
    folder = default_model_folder() if source == "default" else resolve_folder(source)
    reference = LinearSRPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")
    seen, unseen = files[::2][:_MOST_PHOTOS], files[1::2][:_MOST_PHOTOS]
    ranges = observed_ranges(reference, lr_images(seen))
    if not ranges:
        stop(f"{source} has no convolutions that can compute in 8 bits")
    if not supported():
        write_with_ranges(folder, output, ranges)
        note = f"{len(ranges)} ranges; this processor has no fast 8-bit arithmetic, so they were not tried"
        return {"ranges": len(ranges), "psnr_db": None, "note": note}
    images = lr_images(unseen)
    expected = reference(images, output_type="pt").images
    found = ranges
    # what the first blocks round away goes through all the others, so these go back to floating point first
    for first in range(0, _FIRST_BLOCKS + 1, 2):
        ranges = without_first_blocks(found, first)
        write_with_ranges(folder, output, ranges)
        decibels = agreement(LinearSRPipeline.from_pretrained(output, device="cpu"), images, expected)
        if min(decibels) >= _LEAST_AGREEMENT:
            break
    else:
        write_with_ranges(folder, output, {})
        stop(
            f"8 bits are too coarse for this model: {min(decibels):.1f} dB from float32 on an unseen photo, "
            f"and {_LEAST_AGREEMENT:.0f} are asked for; no ranges were written",
            status=1,
        )
    note = (
        f"{len(ranges)} ranges; PSNR against float32 on {len(decibels)} other images: "
        f"median {median(decibels):.1f} dB, least {min(decibels):.1f} dB"
    )
    return {
        "ranges": len(ranges),
        "psnr_db": {"median": round(median(decibels), 2), "least": round(min(decibels), 2)},
        "note": note,
    }
