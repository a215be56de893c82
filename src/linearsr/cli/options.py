"""Options that several commands share: the same name means the same, with the same limits and the same help."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from linearsr.settings import SETTINGS, DType, Format


def _asked(name: str) -> Any:
    """The option of a setting, as Typer takes it; with open ends, its default is the model's own."""
    asked = SETTINGS[name]
    option = typer.Option(min=asked.low, max=asked.high, help=asked.help)
    return Annotated[asked.type if asked.default is not None else asked.type | None, option]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of all settings in the place of its parameter `settings`.

    It gets them as a dict by the names of `LinearSRPipeline.upscale`.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "settings":
            parameters.append(parameter)
            continue
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters += [
            inspect.Parameter(name, kind, default=asked.default, annotation=_asked(name))
            for name, asked in SETTINGS.items()
        ]

    @wraps(command)
    def with_settings(**given: Any) -> None:
        settings = {asked.keyword or name: given.pop(name) for name, asked in SETTINGS.items()}
        command(settings=settings, **given)

    with_settings.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_settings.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_settings


# what goes in

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Images, folders (searched to the bottom), patterns as '*.jpg', @LIST: a file with one of these a line, "
        "-: stdin.",
    ),
]
BuiltInOrModel = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Folder or hub id. Default: the model built in.")
]
Model = Annotated[
    str | None, typer.Option(help="Folder or hub id (owner/name) of a model. Default: the one built in.")
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Refuse inputs with more pixels.", show_default="64 million")
]
MAX_PIXELS = 64_000_000
Degrade = Annotated[str, typer.Option(help="How LR images are made of photos: as `degrade --preset`.")]

# how the model is used

Steps = _asked("steps")
Fidelity = _asked("fidelity")
Seed = _asked("seed")

# how it computes

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
WeightType = Annotated[DType, typer.Option(help="Type of the weights and of the arithmetic.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's choice.")]

# what comes out

FormatOf = Annotated[
    Format | None,
    typer.Option(
        case_sensitive=False,
        help="Type of the results; same: that of each input where it can be written, else png. "
        "Default: that of -o FILE, else png.",
    ),
]
Quality = Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
KeepTimes = Annotated[bool, typer.Option("--keep-times", help="Give each result the times of its input.")]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON line for each image on stdout.")]
JsonDocument = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
