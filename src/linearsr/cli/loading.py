"""Turns options into a pipeline, a tagger, a degradation or a file, or ends the command with one line."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.cli.console import doing, say, stop, told
from linearsr.jobs.messages import shown
from linearsr.settings import IGNORES_TAGS, DType, TagRequest

if TYPE_CHECKING:
    import torch

    from linearsr.guidance.base import Tagger
    from linearsr.images.degradation import Degradation
    from linearsr.pipeline import LinearSRPipeline

_RAM_VARIANTS = {"ram": "ram", "ram++": "ram_plus"}


def choose_device(name: str) -> "torch.device":
    """Return the device called `name` after trying it out. Ends the command if it cannot be used."""
    from linearsr.runtime.devices import named_device

    with told(ValueError, begin="--device "):
        return named_device(name)


def load_tagger(name: str, model: str | None, weights: str | None, device: str) -> "Tagger":
    """Load a tagger: the model's own ("own"), or another by name. Ends the command if it cannot be loaded."""
    from linearsr.guidance.encoders import EncoderPart
    from linearsr.model_folder import load_model_tagger
    from linearsr.runtime.devices import best_dtype

    place = choose_device(device)
    with doing("loading the tagger"), told():
        if name != "own":
            tagger = named_tagger(name, weights)
        elif weights is not None:
            stop("--weights does not apply to the model's own tagger: choose one with --tagger")
        else:
            tagger = load_model_tagger(model)
        tagger.to(place, best_dtype(place))
        if isinstance(tagger, EncoderPart):
            tagger.prepare()
    return tagger


def named_tagger(name: str, weights: str | None = None) -> "Tagger":
    """Return the tagger that a user names: "ram", "ram++" or a tagger's folder. Encoders load on first use.

    Raises ValueError when there is no such folder, or `weights` are given but unused, or needed but missing.
    """
    from linearsr.model_folder import load_tagger

    if name not in _RAM_VARIANTS:
        if weights is not None:
            raise ValueError(f"weights are for {' and '.join(_RAM_VARIANTS)}, not for {name}")
        return load_tagger(name)
    if weights is None:
        raise ValueError(f"{name} needs the folder of its weights")
    from linearsr.guidance.ram import RAMTagger, RAMTaggerConfig

    return RAMTagger(RAMTaggerConfig(weights, _RAM_VARIANTS[name]))


def heard_tags(model: str | None, tags: str | None) -> str | None:
    """Return `tags`, or warn and return None if the model ignores tags.

    Ends the command if there is no such model.
    """
    from linearsr.model_folder import listens_to_tags

    with told():
        if not TagRequest.parse(tags).words or listens_to_tags(model):
            return tags
    say(f"warning: this model {IGNORES_TAGS}")
    return None


def load_pipeline(model: str | None, device: str, dtype: DType) -> "LinearSRPipeline":
    """Load the pipeline of a model. Ends the command if it cannot be loaded."""
    from linearsr.jobs import upscaling

    with doing("loading the model"), told():
        return upscaling.load_pipeline(model, device, dtype, option="--device ")


def check_degradation(option: str, name: str) -> "Degradation":
    """Return the degradation called `name`. Ends the command if there is none, or its file cannot be used."""
    from linearsr.images.degradation_choice import named_degradation

    with told(ValueError, begin=f"{option}: "):
        try:
            return named_degradation(name)
        except ImportError:
            stop(f"{option} {name} needs PyYAML: pip install 'linearsr[train]'")


def check_new_file(
    option: str,
    file: Path,
    suffixes: tuple[str, ...],
    overwrite: bool,
    what: str = "pictures are written as PNG",
) -> None:
    """End the command if `file` cannot be written.

    Its suffix must be in `suffixes`, its folder must exist, and without `overwrite` the file must not exist.
    """
    if file.suffix.lower() not in suffixes:
        stop(f"{option} {shown(file)}: {what}: use a name that ends in {suffixes[0]}")
    if file.is_dir() or not file.parent.is_dir():
        stop(f"{option} {shown(file)}: choose a file in an existing folder")
    if file.exists() and not overwrite:
        stop(f"{shown(file)} exists: add --overwrite to replace it")


def check_figure(option: str, file: Path, overwrite: bool) -> None:
    """Check that a figure can be written: `check_new_file` for a PNG, and matplotlib is installed."""
    check_new_file(option, file, (".png",), overwrite)
    if find_spec("matplotlib") is None:
        stop(f"{option} needs matplotlib: pip install 'linearsr[train]'")
