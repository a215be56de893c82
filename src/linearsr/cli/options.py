"""Options that several commands share: the same name means the same, with the same limits and the same help."""

from enum import Enum
from typing import Annotated

import typer

from linearsr.cli.loading import DType


class ColourFix(str, Enum):
    """Where low frequencies or mean and deviation of the colours are taken from the input."""

    none = "none"
    wavelet = "wavelet"
    adain = "adain"


# what goes in

Images = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Images, folders (searched to the bottom) or patterns as '*.jpg'."),
]
BuiltInOrModel = Annotated[
    str | None, typer.Argument(metavar="[MODEL]", help="Folder or hub id. Default: the model built in.")
]
Model = Annotated[
    str | None, typer.Option(help="Folder or hub id (owner/name) of a model. Default: the one built in.")
]

# how the model is used

Scale = Annotated[
    float | None,
    typer.Option(min=1, max=8, help="How many times larger, per side. Default: the model's own, mostly 4."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=0, max=1000, help="Evaluations of the experts; 0: the trunk's picture. Default: the model's."
    ),
]
Fidelity = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="From 0, most detail, to 1, least distortion. Default: the model's, and more for what is no photo.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the noise: same seed, same result.")]
ColourFixed = Annotated[
    ColourFix | None, typer.Option(help="Take the input's colours. Default: as the model needs it.")
]

# how it computes

WeightType = Annotated[DType, typer.Option(help="Type of the weights and of the arithmetic.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's choice.")]

# what comes out

Quality = Annotated[int, typer.Option(min=1, max=100, help="Of JPEG and WebP.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON line for each image on stdout.")]
JsonDocument = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
