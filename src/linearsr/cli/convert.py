"""`linearsr convert`: convert a model to 8 bits, or start one from SANA's weights."""

from math import isfinite
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from typer import Argument, Option

from linearsr.cli.console import Bars, say, stop, told, write_json
from linearsr.cli.options import JsonDocument
from linearsr.jobs.messages import shown
from linearsr.jobs.names import check_folder

_LEAST_AGREEMENT = 30.0
"""Lowest accepted median PSNR in dB against float32. If a trunk invents detail, bfloat16 may do no better."""
_MOST_PHOTOS = 32


def convert(
    source: Annotated[
        str,
        Argument(
            metavar="SRC",
            help="Model to convert: folder or hub id, 'default' for the built-in model, or a checkpoint (.pth) of "
            "NVlabs' SANA or of the tagger RAM.",
        ),
    ],
    output: Annotated[Path, Option("--output", "-o", metavar="DIR", help="Folder for the converted model.")],
    to: Annotated[
        Literal["model", "int8"],
        Option(help="model: make a LinearSR to train from a SANA; int8: make a LinearSR faster on CPUs."),
    ] = "model",
    photos: Annotated[
        Path | None,
        Option(metavar="DIR", help="With --to int8: photos to find and check the ranges of 8 bits on."),
    ] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Write into a folder that has files.")] = False,
    as_json: JsonDocument = False,
) -> None:
    """Convert a model to 8 bits, or make a LinearSR to train from SANA's weights.

    A .pth of NVlabs is written in the format of diffusers, to be converted in a second step.

        linearsr convert default --to int8 --photos photos/ -o faster
        linearsr convert Sana_600M_512px_diffusers/ -o start
        linearsr convert Sana_600M_512px.pth -o sana
    """
    with told():
        check_folder(output)
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        stop(f"{shown(output)} already has files: choose another folder, or add --overwrite")
    if to == "int8" and photos is None:
        stop("--to int8 needs photos: add --photos DIR")
    if to == "model" and source == "default":
        stop("the built-in model is a LinearSR already: to make it faster, add --to int8 --photos DIR")
    if to == "model" and photos is not None:
        stop("--photos is used only with --to int8: add that, or leave it out")
    with told():
        report = _to_model(source, output) if photos is None else _to_int8(source, output, photos)
    if as_json:
        write_json({"output": str(output), **report})
    else:
        say(f"{shown(output)}: {report['note']}")


def _to_model(source: str, output: Path) -> dict[str, Any]:
    from linearsr.backends.nvlabs import convert_pickle
    from linearsr.backends.sana import PARTS, is_sana, start_from_sana
    from linearsr.model_folder import MODEL_INDEX
    from linearsr.runtime.checkpoints import resolve_folder

    if Path(source).is_file():
        kind, parameters = convert_pickle(Path(source), output)
        if kind == "ram":
            return {"parameters": parameters, "note": "weights for --tagger ram or ram++"}
        note = "put vae, text_encoder and tokenizer of a diffusers SANA beside them, and convert that"
        return {"parameters": parameters, "note": f"transformer and scheduler in diffusers format; {note}"}
    folder = resolve_folder(source, PARTS)
    if not is_sana(folder):
        if (folder / "transformer").is_dir() and not (folder / MODEL_INDEX).is_file():
            stop(f"{source} has no folder vae: put that of a SANA in diffusers format there")
        stop(
            f"{source} is neither a SANA in diffusers format nor a checkpoint of NVlabs; for a LinearSR, add --to int8"
        )
    pipeline = start_from_sana(folder)
    pipeline.save_pretrained(output)
    assert pipeline.transformer is not None
    parameters = sum(p.numel() for p in pipeline.transformer.parameters())
    return {
        "parameters": parameters,
        "guidance": None if pipeline.guidance is None else pipeline.guidance.kind,
        "note": f"{parameters / 1e6:,.2f} million parameters; its LR inputs are zero: train it (linearsr train)",
    }


def _to_int8(source: str, output: Path, photos: Path) -> dict[str, Any]:
    import torch

    from linearsr.backends.int8_ranges import agreement, drawn, lr_images, observed_ranges, write_with_ranges
    from linearsr.images.files import list_images
    from linearsr.model_folder import find_model
    from linearsr.models.int8 import supported, use_int8_
    from linearsr.pipeline import LinearSRPipeline

    files = list_images(photos)
    if len(files) < 2:
        stop(f"{shown(photos)}: give at least two photos, one to find the ranges on and one to check them")
    folder = find_model(source)
    pipeline = LinearSRPipeline.from_pretrained(folder, torch_dtype=torch.float32, device="cpu")
    if pipeline.trunk is None:
        stop(f"{source} has no trunk, which is the part that computes in 8 bits")
    if not supported():
        stop("this torch has no 8-bit convolutions, so ranges cannot be checked: convert on another machine")
    with Bars() as progress:
        images = lr_images(files[::2][:_MOST_PHOTOS])
        ranges = observed_ranges(pipeline, progress.bars.track(images, description="finding ranges"))
        others = files[1::2][:_MOST_PHOTOS]
        images = lr_images(others)
        exact = drawn(pipeline, progress.bars.track(images, description="checking: float32"))
        use_int8_(pipeline.trunk, ranges)
        found = drawn(pipeline, progress.bars.track(images, description="checking: 8 bits"))
    decibels = agreement(found, exact)
    figures = {"median": median(decibels), "least": min(decibels)}
    if figures["median"] < _LEAST_AGREEMENT:
        stop(
            f"8 bits are too coarse for this model: {figures['median']:.1f} dB from float32 on photos that were not "
            f"used for the ranges, and {_LEAST_AGREEMENT:.0f} are asked for; nothing was written",
            status=1,
        )
    write_with_ranges(folder, output, ranges)
    # identical images have an infinite PSNR, which JSON cannot hold
    return {
        "ranges": len(ranges),
        "psnr_db": {name: round(value, 2) if isfinite(value) else None for name, value in figures.items()},
        "note": f"{len(ranges)} ranges; PSNR against float32 on {len(others)} other photo{'s' * (len(others) > 1)}, "
        f"degraded in two ways: "
        f"median {figures['median']:.1f} dB, least {figures['least']:.1f} dB",
    }
