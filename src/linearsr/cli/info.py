"""`linearsr info`: what is installed, what a model is made of, and where it would run."""

from math import isfinite
from pathlib import Path
from typing import Any

from linearsr._version import __version__
from linearsr.cli.console import out, table, told, write_json
from linearsr.cli.options import BuiltInOrModel, JsonDocument

_NOT_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")


def info(
    model: BuiltInOrModel = None,
    as_json: JsonDocument = False,
) -> None:
    """Show the installation, and a model: its parts, experts, sizes and default settings.

    Tells on which device and in which type it would run, too.

        linearsr info
        linearsr info runs/tiny/model
    """
    import torch

    from linearsr.models import int8
    from linearsr.runtime.devices import best_device, best_dtype

    with told(ValueError, OSError):
        device, found = best_device(), _model(model)
        dtype = best_dtype(device)
        report = {
            "version": __version__,
            "torch": torch.__version__,
            "device": str(device),
            "dtype": str(dtype).removeprefix("torch."),
            "int8": int8.are_used(bool(found["int8_ranges"]), device, dtype),
            "model": found,
        }
    if as_json:
        write_json(report)
    else:
        _show(report)


def _model(name: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from linearsr.model_folder import MODEL_INDEX, STEMS, find_model, load_ranges, part_classes, read_index
    from linearsr.runtime.checkpoints import CONFIG_NAME, load_config
    from linearsr.runtime.files import prefixed
    from linearsr.settings import PipelineConfig

    folder = find_model(name)
    index = read_index(folder)
    with prefixed(f"{folder / MODEL_INDEX}: ", ValueError):
        settings = asdict(PipelineConfig.from_index(index))
    classes = part_classes(folder, index)
    stem = STEMS[classes["lr_stem"]].parse_config(
        load_config(folder / "lr_stem"), folder / "lr_stem" / CONFIG_NAME
    )
    steered = "guidance" in classes
    guidance: dict[str, Any] = _describe("guidance", folder / "guidance") if steered else {"kind": "none"}
    tagger = _describe("tagger", folder / "tagger") if "tagger" in classes else None
    parts = [_part(folder / part, part, kind) for part, kind in classes.items()]
    for encoders in (part.get("encoders", {}) for part in (guidance, tagger or {})):
        for part in encoders.values():
            if any((folder / part).glob("*.safetensors")):
                # the class name that `transformers` wrote into its config
                architectures = load_config(folder / part).get("architectures") or [None]
                parts.append(_part(folder / part, part, architectures[0]))
    return {
        "name": settings.pop("name"),
        "folder": str(folder),
        "scale": stem.scale,
        "parameters": sum(part["parameters"] for part in parts),
        "bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "parts": parts,
        "experts": _experts(folder / "transformer") if "transformer" in classes else [],
        "guidance": guidance,
        "tagger": tagger,
        "settings": settings,
        "int8_ranges": len(load_ranges(folder)),
    }


def _part(folder: Path, name: str, kind: str | None) -> dict[str, Any]:
    files = sorted(folder.rglob("*.safetensors"))
    return {
        "name": name,
        "class": kind,
        "parameters": sum(map(_count_parameters, files)),
        "bytes": sum(file.stat().st_size for file in files),
    }


def _experts(folder: Path) -> list[dict[str, Any]]:
    from linearsr.flow.experts import read_partition
    from linearsr.flow.path import log_snr

    partition = read_partition(folder)
    places = [folder / f"expert_{index}" for index in range(partition.num_experts)]
    if not places[0].exists() and len(places) == 1:
        places = [folder]
    experts: list[dict[str, Any]] = []
    for index, place in enumerate(places):
        low, high = partition.span(index)
        # JSON has no infinity: an open end is null
        ends = [value if isfinite(value) else None for value in (log_snr(high), log_snr(low))]
        count = sum(map(_count_parameters, place.glob("*.safetensors")))
        name = partition.names[index]
        experts.append({"index": index, "name": name, "t": [low, high], "log_snr": ends, "parameters": count})
    return experts


def _describe(part: str, folder: Path) -> dict[str, Any]:
    """Describe a "guidance" or "tagger" part from the config in its folder; no weights are read."""
    from linearsr.guidance.encoders import EncoderPart
    from linearsr.model_folder import GUIDANCES, TAGGERS
    from linearsr.runtime.checkpoints import CONFIG_NAME, class_in

    guides = part == "guidance"
    kind, raw = class_in(folder, GUIDANCES if guides else TAGGERS, "guidance" if guides else "a tagger")
    config = kind.parse_config(raw, folder / CONFIG_NAME)
    told: dict[str, Any] = (
        {"kind": kind.kind, "token_channels": config.channels} if guides else {"class": kind.__name__}
    )
    if hasattr(config, "vocabulary"):
        told["known_tags"] = len(config.vocabulary)
    if issubclass(kind, EncoderPart):
        told["encoders"] = {field: getattr(config, field) for field in kind.folder_fields}
    return told


def _count_parameters(file: Path) -> int:
    from math import prod

    from safetensors import SafetensorError, safe_open

    from linearsr.runtime.checkpoints import SCALE_SUFFIX, CheckpointError

    others = (*_NOT_PARAMETERS, f".weight{SCALE_SUFFIX}")
    try:
        with safe_open(file, "pt") as weights:
            names = [name for name in weights.keys() if not name.endswith(others)]  # noqa: SIM118
            return sum(prod(weights.get_slice(name).get_shape()) for name in names)
    except SafetensorError:
        raise CheckpointError(f"{file}: damaged, or not a safetensors file; get a new copy") from None


def _show(report: dict[str, Any]) -> None:
    model, screen = report["model"], out()
    screen.print(f"linearsr {report['version']}, torch {report['torch']}")
    bits = ", the trunk in 8 bits" if report["int8"] else ""
    screen.print(f"runs on {report['device']} in {report['dtype']}{bits}")
    size = f"{model['parameters'] / 1e6:.2f} million parameters, {model['bytes'] / 1e6:.1f} MB"
    screen.print(f"\nmodel {model['name']}, x{model['scale']}: {size}\n{model['folder']}", soft_wrap=True)
    screen.print("defaults: " + ", ".join(f"{key} {value}" for key, value in model["settings"].items()))
    screen.print(f"8-bit ranges: of {model['int8_ranges']} blocks")
    for name in ("guidance", "tagger"):
        if model[name] is not None:
            kind, *details = model[name].items()
            facts = [kind[1]]
            for key, value in details:
                shown = ", ".join(value.values()) if isinstance(value, dict) else value
                facts.append(f"{key.replace('_', ' ')} {shown}")
            screen.print(f"{name}: {'; '.join(facts)}", soft_wrap=True)
    parts = table("part", "class", "parameters", ruled=True)
    for part in model["parts"]:
        parts.add_row(part["name"], part["class"], f"{part['parameters']:,}")
    experts = table("expert", "span of t", "log-SNR", "parameters", ruled=True)
    for expert in model["experts"]:
        low, high = expert["t"]
        noisy, clean = expert["log_snr"]
        snr = f"{'-inf' if noisy is None else f'{noisy:.3f}'} to {'inf' if clean is None else f'{clean:.3f}'}"
        span = f"{low:g} to {high:g}"
        experts.add_row(f"{expert['index']} {expert['name']}", span, snr, f"{expert['parameters']:,}")
    screen.print(parts)
    if model["experts"]:
        screen.print(experts)
