"""What can be asked of an upscale, what a model does by itself, and what one call asks for. Imports no torch."""

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
"""(pipeline, step index, time reached in [0, 1], {"latents": ..., "steps": ...}) -> {"latents": replacement} or None.

"steps" are as many as this image takes, which may be fewer than another does."""


@dataclass(frozen=True)
class Setting:
    """One thing that can be asked of an upscale: its type, its range (None: open), and what it means.

    `keyword` is what `LinearSRPipeline` calls it, where that is not its name; a `default` of None, the model's.
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
"""By the name of its option; the order is that of the help."""


class Asked(TypedDict, total=False):
    """What a call may ask for by keyword; see `LinearSRPipeline.__call__`."""

    scale: float | None
    num_inference_steps: int | None
    fidelity: float | None
    tags: str | Sequence[str] | None
    guidance_scale: float | None
    color_fix: ColourFix | None
    callback_on_step_end: StepCallback | None


def check_setting(name: str, value: Any) -> None:
    """Raises ValueError, one line, for a value of another type or out of its range."""
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
    """The size that a result is to have, in the place of a scale; where several are given, none is exceeded."""

    width: int | None = None
    height: int | None = None
    megapixels: float | None = None

    def __bool__(self) -> bool:
        return (self.width, self.height, self.megapixels) != (None, None, None)

    def suffix(self) -> str:
        """What names a result of this size: "_1920w_1080h"."""
        parts = {"w": self.width, "h": self.height, "mp": self.megapixels}
        return "".join(f"_{value:g}{unit}" for unit, value in parts.items() if value is not None)

    def scale(self, size: tuple[int, int]) -> float:
        """The scale for an upright picture of `size` (width, height). Raises ValueError if it is out of range."""
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
    """Settings of a model that are not weights; the call can override steps, fidelity, colour fix and guidance."""

    num_inference_steps: int = 4
    """Network evaluations (NFE); 0: none, the trunk's picture."""
    fidelity: float = 0.0
    """0: a full sample of the flow; 1: the posterior mean."""
    mean: Mean = "first_step"
    """Whose estimate the posterior mean is: the network's at pure noise, as flow matching trains it, or the stem's,
    where the network was distilled to give a sample at once."""
    color_fix: ColourFix = "none"
    guidance_scale: float = 1.0
    """Classifier-free guidance; 1: as trained, without a second pass; 0: not guided."""
    use_tags: bool = False
    """Where the caller says nothing of tags: whether those that the model's tagger finds guide it."""
    solver: Solver = "dpmsolver++"
    flow_shift: float = 1.0
    """Shift of the times towards noise."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels at which the steps start, falling from 1, for just this number of steps; None: shifted uniform."""
    name: str = "LinearSR"
    """How the model is called in reports."""

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
        """The times of a walk of so many steps, from 1 to 0."""
        if self.sigmas is not None and len(self.sigmas) == steps:
            return [*self.sigmas, 0.0]
        from linearsr.flow.sampler import timesteps

        return timesteps(steps, self.flow_shift)

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "PipelineConfig":
        """The settings among the entries of a `model_index.json`.

        Raises:
            ValueError: one that makes no sense or is of another type.
        """
        from linearsr.runtime.files import from_json

        known = {field.name for field in fields(cls)}
        return from_json(cls, {key: value for key, value in index.items() if key in known})


IGNORES_TAGS = "does not listen to tags: results are as without them"


class TagRequest(NamedTuple):
    """The caller's words, and whether the tags that the tagger finds join them."""

    words: tuple[str, ...] = ()
    add: bool = False

    @classmethod
    def parse(cls, tags: str | Sequence[str] | None, use_tags: bool = False) -> "TagRequest":
        """From "brick wall, ivy" or a list of such texts.

        They take the place of the tags that are found; with a plus before the first, "+ivy, moss", they join them. An
        empty text or list asks for no tags. None leaves it to the model: found tags where it is to `use_tags`.

        Raises:
            ValueError: neither a text nor a list of texts.
        """
        if tags is None:
            return cls(add=use_tags)
        from linearsr.guidance.vocabulary import split_tags

        parts = list(tags) if isinstance(tags, Sequence) and not isinstance(tags, str) else [tags]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(
                f"tags must be a text such as 'brick wall, ivy' or a list of texts, not {tags!r}"
            )
        # a command line may hold bytes that are no text, which no encoder takes
        words = [
            word for part in parts for word in split_tags(part.encode("utf-8", "replace").decode("utf-8"))
        ]
        add = bool(words) and words[0].startswith("+")
        if add:
            words = [word.removeprefix("+").strip() for word in words]
        return cls(tuple(word for word in words if word), add)


@dataclass(frozen=True)
class Options:
    """What one call asks for; see `LinearSRPipeline.__call__`. Raises ValueError for a setting out of its range."""

    scale: float
    steps: int
    fidelity: float
    color_fix: ColourFix
    tags: TagRequest
    guidance_scale: float
    guidance: "GuidanceTokens | None" = None
    callback: StepCallback | None = None
    drawing: float | None = None
    """How far the image is from a photo, 0 to 1; None: to be measured, as the call leaves fidelity to the model."""

    def __post_init__(self) -> None:
        for name in ("scale", "steps", "fidelity", "color_fix", "guidance_scale"):
            check_setting(name, getattr(self, name))


def seeds_for(
    count: int,
    seed: int | Sequence[int] | None = None,
    generator: "torch.Generator | Sequence[torch.Generator] | None" = None,
) -> list[int]:
    """A seed for each of `count` images: `seed` (None: 0), or drawn from `generator`.

    Raises:
        ValueError: another number of them, or both are given.
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
