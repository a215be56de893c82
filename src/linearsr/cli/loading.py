"""From `--model`, `--device` and `--dtype` to a pipeline, or one line that says why not."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from linearsr.cli.console import debugging, failure, one_line, say, shown_words, stop

if TYPE_CHECKING:
    import torch

    from linearsr.guidance.base import Tagger
    from linearsr.pipeline import LinearSRPipeline


DEFAULT_MODEL = "default"
"""The word for the built-in model where leaving a model out means none."""

DEFAULT_SCALE = 4.0
"""Of the built-in model."""


class DType(str, Enum):
    """Types of the weights; `auto` is bfloat16 where the device computes in it, else float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def choose_device(name: str) -> "torch.device":
    """The device of that name, tried out. Ends the command if there is none."""
    import torch

    from linearsr.runtime.devices import best_device

    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device) + 1
    except Exception as error:
        if debugging():
            raise
        reason = one_line(error).split(". ")[0]
        stop(f"--device {name} cannot be used ({reason}): choose auto, cpu, cuda or mps")
    return device


def check_tags(pipeline: "LinearSRPipeline", tags: str | None, guidance_scale: float | None) -> list[str]:
    """The words of `--tags` that the model cannot use; says them. Ends the command if tags cannot guide the model."""
    from linearsr.guidance.guide import prepare
    from linearsr.guidance.request import TagRequest

    if guidance_scale not in (None, 1) and pipeline.guidance is None:
        stop("--guidance-scale: this model has no guidance: leave it out")
    try:
        unknown = pipeline.unknown_tags(tags)
        prepare(pipeline.guidance, pipeline.tagger, TagRequest.parse(tags, pipeline.config.use_tags))
    except (ValueError, ImportError) as error:
        if debugging():
            raise
        stop(error)
    if unknown:
        say(f"warning: tags left out, unknown to the model or too many: {shown_words(unknown)}")
    return unknown


def load_tagger(
    name: str, model: str | None, vocabulary: Path | None, weights: str | None, device: str
) -> "Tagger":
    """The tagger, ready to work: the model's own, or another one by name. Ends the command if it cannot be had."""
    from linearsr.guidance.encoders import EncoderPart
    from linearsr.guidance.registry import named_tagger
    from linearsr.model_folder import load_model_tagger
    from linearsr.runtime.devices import best_dtype

    place = choose_device(device)
    try:
        if name != "own":
            tagger = named_tagger(name, vocabulary, weights)
        elif vocabulary is not None or weights is not None:
            stop(
                "--vocabulary and --weights are for other taggers than the model's own: name one with --tagger"
            )
        else:
            tagger = load_model_tagger(model)
        tagger.to(place, best_dtype(place))
        if isinstance(tagger, EncoderPart):
            tagger.prepare()
    except typer.Exit:
        raise  # which is a RuntimeError, too
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))
    return tagger


def own_scale(model: str | None) -> float:
    """The scale of the model's own results, which are named by it before it is loaded.

    Ends the command if there is no such model.
    """
    if model is None:
        return DEFAULT_SCALE
    from linearsr.model_folder import model_scale

    try:
        return model_scale(model)
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))


def load_pipeline(model: str | None, device: str, dtype: DType) -> "LinearSRPipeline":
    """The model, ready to work. Ends the command if it cannot be loaded."""
    import torch

    from linearsr.pipeline import LinearSRPipeline

    place = choose_device(device)
    torch_dtype = None if dtype is DType.auto else getattr(torch, dtype.value)
    try:
        return LinearSRPipeline.from_pretrained(model, torch_dtype=torch_dtype, device=place)
    except Exception as error:
        if debugging():
            raise
        stop(failure(error))
