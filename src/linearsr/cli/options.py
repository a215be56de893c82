"""Options shared by several commands, each with one meaning, range and help text."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from typer import Argument, Option

from linearsr.settings import SETTINGS, DType, Format


def _asked(name: str) -> Any:
    """Return the Typer annotation of a setting's option. A default of None means the model's own value."""
    asked = SETTINGS[name]
    option = Option(min=asked.low, max=asked.high, help=asked.help)
    return Annotated[asked.type if asked.default is not None else asked.type | None, option]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `settings` of a command by the options of all settings.

    The command receives them as a dict, with the keyword names of `LinearSRPipeline.upscale`.
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


# input

Images = Annotated[
    list[str],
    Argument(
        metavar="INPUT",
        help="Images, folders (with their subfolders), patterns such as '*.jpg', @LIST (a file with one name per "
        "line), or - for stdin.",
    ),
]
BuiltInOrModel = Annotated[
    str | None, Argument(metavar="MODEL", help="Model folder or hub id. Default: the built-in model.")
]
Model = Annotated[
    str | None, Option(help="Model folder or hub id (owner/name). Default: the built-in model.")
]
MaxPixels = Annotated[int, Option(min=1, help="Refuse images with more pixels.", show_default="64 million")]
MAX_PIXELS = 64_000_000
Degrade = Annotated[str, Option(help="How to degrade the photos; see `linearsr degrade --preset`.")]

# settings of the model

Steps = _asked("steps")
Fidelity = _asked("fidelity")
Seed = _asked("seed")

# computation

Device = Annotated[str, Option(help="Device: auto, cpu, cuda, cuda:1, mps, ...")]
WeightType = Annotated[DType, Option(help="Data type of the weights and the computation.")]
Threads = Annotated[int | None, Option(min=1, help="CPU threads. Default: chosen by torch.")]

# output

FormatOf = Annotated[
    Format | None,
    Option(
        case_sensitive=False,
        help="File type of the results; `same` keeps the type of each input (png if it cannot be written). "
        "Default: the type of -o FILE, otherwise png.",
    ),
]
Quality = Annotated[int, Option(min=1, max=100, help="Quality of JPEG and other lossy types.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace existing results.")]
JsonLines = Annotated[bool, Option("--json", help="Print one JSON line per image to stdout.")]
JsonDocument = Annotated[bool, Option("--json", help="Print one JSON document to stdout.")]
