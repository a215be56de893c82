"""Settings: the table of all settings, the defaults of a model, and the options of one call.

Importing this module does not import torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf, isfinite, sqrt
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, get_args

from linearsr.flow import Solver

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from linearsr.guidance.base import GuidanceTokens

ColourFix = Literal["none", "wavelet"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Format = Literal["png", "jpg", "jpeg", "webp", "tiff", "avif", "same"]
Mean = Literal["first_step", "stem"]
StepCallback = Callable[[Any, int, float, dict[str, Any]], "dict[str, Tensor] | None"]
"""Callback after a step: (pipeline, step index, time reached in [0, 1], state) -> {"latents": new} or None.

The state is {"latents": ..., "steps": ...}; "steps" is the number for this image, which may differ between
images. Latents that are returned replace the current ones."""


@dataclass(frozen=True)
class Setting:
    """A setting of an upscale: its type, its help text, and the range of a number.

    `low` None means 0, `high` None means no upper limit. A `default` of None leaves the value to the model.
    `keyword` is the name of the argument of `LinearSRPipeline`, "" if it equals the setting's name.
    """

    type: Any
    help: str
    low: float | None = None
    high: float | None = None
    default: Any = None
    keyword: str = ""


SETTINGS = {
    "scale": Setting(float, "Scale factor per side. Default: the model's own, usually 4.", 1, 8),
    "steps": Setting(
        int,
        "Evaluations of the expert network; 0 uses only the trunk. Default: set by the model.",
        0,
        keyword="num_inference_steps",
    ),
    "fidelity": Setting(
        float,
        "0 gives the most detail, 1 the least distortion. Default: set by the model; higher for text and drawings.",
        0,
        1,
    ),
    "tags": Setting(
        str,
        "Describe the photos: 'brick wall, ivy' replaces the tags that are found, '+ivy' adds to them, '' uses none. "
        "Default: set by the model.",
    ),
    "guidance_scale": Setting(
        float, "Strength of tag guidance; 1 needs no second pass. Default: set by the model.", 0
    ),
    "seed": Setting(int, "Random seed. The same seed gives the same result.", 0, 2**32 - 1, default=0),
    "color_fix": Setting(ColourFix, "How to keep the colours of the input. Default: set by the model."),
}
"""All settings by option name, in the order in which the help lists them."""


class Asked(TypedDict, total=False):
    """Keyword arguments of an upscale call; see `LinearSRPipeline.__call__`."""

    scale: float | None
    num_inference_steps: int | None
    fidelity: float | None
    tags: str | Sequence[str] | None
    guidance_scale: float | None
    color_fix: ColourFix | None
    callback_on_step_end: StepCallback | None


def check_setting(name: str, value: Any) -> None:
    """Check the value of a setting. Raises ValueError, one line: it is of the wrong type or out of range."""
    asked, words = SETTINGS[name], name.replace("_", " ")
    if choices := get_args(asked.type):
        if value not in choices:
            raise ValueError(f"unknown {words} {value!r}: choose from {', '.join(choices)}")
        return
    whole = asked.type is int
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise ValueError(f"{words} must be a {'whole ' * whole}number, not {value!r}")
    low, high, value = asked.low or 0, asked.high, float(value)
    if not low <= value <= (inf if high is None else high) or not isfinite(value):
        limits = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ValueError(f"{words} {value:g} is out of range: choose {limits}")


@dataclass(frozen=True)
class Fit:
    """The size of a result, instead of a scale. If several values are given, the result exceeds none."""

    width: int | None = None
    height: int | None = None
    megapixels: float | None = None

    def __bool__(self) -> bool:
        return (self.width, self.height, self.megapixels) != (None, None, None)

    def suffix(self) -> str:
        """Return the suffix for the name of a result of this size, such as "_1920w_1080h"."""
        parts = {"w": self.width, "h": self.height, "mp": self.megapixels}
        return "".join(f"_{value:g}{unit}" for unit, value in parts.items() if value is not None)

    def scale(self, size: tuple[int, int]) -> float:
        """Return the scale for an upright picture of `size` (width, height).

        Raises ValueError: the scale is out of range.
        """
        scales = [
            wanted / side for wanted, side in zip((self.width, self.height), size, strict=True) if wanted
        ]
        if self.megapixels is not None:
            scales.append(sqrt(self.megapixels * 1e6 / (size[0] * size[1])))
        scale, asked = min(scales), SETTINGS["scale"]
        if asked.low is not None and asked.high is not None and not asked.low <= scale <= asked.high:
            raise ValueError(
                f"is {size[0]}x{size[1]} pixels, so the requested size needs a scale of {scale:.3g}: "
                f"request a size from {asked.low:g} to {asked.high:g} times as large"
            )
        return scale


@dataclass(frozen=True)
class PipelineConfig:
    """The settings of a model. A call can override steps, fidelity, colour fix, guidance scale and tags."""

    num_inference_steps: int = 4
    """Number of network evaluations (NFE); 0 gives the trunk's picture."""
    fidelity: float = 0.0
    """From 0, a full sample of the flow, to 1, the posterior mean."""
    mean: Mean = "first_step"
    """Whose estimate the posterior mean is: the network's at pure noise, as flow matching trains it
    ("first_step"), or the stem's, for a network that was distilled to give a sample at once ("stem")."""
    color_fix: ColourFix = "none"
    guidance_scale: float = 1.0
    """Strength of classifier-free guidance: 1 is as trained, without a second pass; 0 turns guidance off."""
    use_tags: bool = False
    """Whether the tags that the tagger finds guide the model when the caller gives none."""
    solver: Solver = "dpmsolver++"
    flow_shift: float = 1.0
    """Shift of the timesteps towards noise; 1 is uniform."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels at which the steps start, falling from 1. They are used when the number of steps equals
    their number; None, and any other number of steps, uses uniform timesteps with `flow_shift`."""
    name: str = "LinearSR"
    """Name of the model in reports."""

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver {self.solver!r} is not one of {', '.join(get_args(Solver))}")
        if self.mean not in get_args(Mean):
            raise ValueError(f"mean {self.mean!r} is not one of {', '.join(get_args(Mean))}")
        if self.sigmas is not None and (
            self.sigmas[:1] != (1.0,) or any(s <= t for s, t in pairwise((*self.sigmas, 0.0)))
        ):
            raise ValueError(f"sigmas {self.sigmas} must fall strictly from 1 and stay above 0")
        if not (isfinite(self.flow_shift) and self.flow_shift > 0):
            raise ValueError(f"flow_shift {self.flow_shift:g} must be above 0")
        for name in ("steps", "fidelity", "color_fix", "guidance_scale"):
            check_setting(name, getattr(self, SETTINGS[name].keyword or name))

    def times(self, steps: int) -> list[float]:
        """Return the `steps` + 1 times from 1 to 0 between which the sampler steps."""
        if self.sigmas is not None and len(self.sigmas) == steps:
            return [*self.sigmas, 0.0]
        from linearsr.flow.sampler import timesteps

        return timesteps(steps, self.flow_shift)

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "PipelineConfig":
        """Read the settings from the entries of a `model_index.json`; other entries are ignored.

        Raises:
            ValueError: a setting has the wrong type or an invalid value.
        """
        from linearsr.runtime.files import from_json

        known = {field.name for field in fields(cls)}
        return from_json(cls, {key: value for key, value in index.items() if key in known})


IGNORES_TAGS = "does not listen to tags: results are as without them"


class TagRequest(NamedTuple):
    """The tags that a caller gave, and whether the tags that the tagger finds are added to them."""

    words: tuple[str, ...] = ()
    add: bool = False

    @classmethod
    def parse(cls, tags: str | Sequence[str] | None, use_tags: bool = False) -> "TagRequest":
        """Parse a text such as "brick wall, ivy", or a list of such texts.

        The tags replace those that the tagger finds; with a plus before the first ("+ivy, moss"), they are
        added to them. An empty text or list means no tags. None means the tagger's if `use_tags`, else none.

        Raises:
            ValueError: `tags` is neither a text nor a list of texts.
        """
        if tags is None:
            return cls(add=use_tags)
        from linearsr.guidance.vocabulary import split_tags

        parts = list(tags) if isinstance(tags, Sequence) and not isinstance(tags, str) else [tags]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"tags must be a text such as 'brick wall, ivy' or a list of texts, not {tags!r}"
            )
        # bytes of a command line that are not valid text become "?", since encoders accept only valid text
        words = [
            word for part in parts for word in split_tags(part.encode("utf-8", "replace").decode("utf-8"))
        ]
        add = bool(words) and words[0].startswith("+")
        if add:
            words = [word.removeprefix("+").strip() for word in words]
        return cls(tuple(word for word in words if word), add)


@dataclass(frozen=True)
class Options:
    """The settings of one call, the model's own filled in. Raises ValueError: a setting is out of range."""

    scale: float
    steps: int
    fidelity: float
    color_fix: ColourFix
    tags: TagRequest
    guidance_scale: float
    guidance: "GuidanceTokens | None" = None
    callback: StepCallback | None = None
    drawing: float | None = None
    """How much the image looks like a drawing, 0 to 1. None, when the call leaves fidelity to the model,
    measures it on the image and raises the fidelity accordingly."""

    def __post_init__(self) -> None:
        for name in ("scale", "steps", "fidelity", "color_fix", "guidance_scale"):
            check_setting(name, getattr(self, name))


def seeds_for(
    count: int,
    seed: int | Sequence[int] | None = None,
    generator: "torch.Generator | Sequence[torch.Generator] | None" = None,
) -> list[int]:
    """Return a seed for each of `count` images: `seed` (None means 0), or numbers drawn from `generator`.

    Raises:
        ValueError: both are given, or the number of seeds or generators is not `count`.
        TypeError: a seed is not a whole number.
    """
    import torch

    if generator is not None:
        if seed is not None:
            raise ValueError("give either a seed or a generator, not both")
        generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
        values = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
    else:
        given = list(seed) if isinstance(seed, Sequence) else [0 if seed is None else seed] * count
        try:
            values = [index(each) for each in given]
        except TypeError as error:
            raise TypeError(f"a seed must be a whole number, not {seed!r}") from error
    if len(values) != count:
        raise ValueError(f"{len(values)} seeds or generators for {count} images: give one, or one for each")
    return values
