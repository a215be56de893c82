"""What a model does by itself, and what one call asks of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import isfinite
from operator import index
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from linearsr.checkpoints import from_json
from linearsr.flow.sampler import Solver, timesteps
from linearsr.guidance.base import GuidanceTokens
from linearsr.guidance.request import TagRequest

ColourFix = Literal["none", "wavelet", "adain"]
Mean = Literal["first_step", "stem"]
Backend = Literal["torch", "openvino"]
StepCallback = Callable[[Any, int, float, dict[str, Any]], dict[str, Tensor] | None]
"""(pipeline, step index, time reached in [0, 1], {"latents": ..., "steps": ...}) -> {"latents": replacement} or None.

"steps" are as many as this image takes, which may be fewer than another does. With `upscale_together`, "places" says of
which pictures the latents are."""

_SCALES = (1.0, 8.0)


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of a model that are not weights; the call can override steps, fidelity, colour fix and guidance."""

    num_inference_steps: int = 4
    """Network evaluations (NFE); 0: none, the trunk's picture."""
    clean_steps: int | None = None
    """As many for a clean image, one without compression, noise or strong blur; None: as for any other."""
    clean_strength: float = 2.0
    """Up to where an image is clean; see `PredictiveStem.strength`."""
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
    int8_ranges: dict[str, float | list[float]] | None = None
    """Largest magnitude that goes into a convolution, or into each channel, by part and name: these can do 8 bits.

    `models/int8.py` does, and `linearsr convert --to int8` finds them."""
    backend: Backend = "torch"
    """What computes stem and experts on a CPU; "openvino": the networks that `linearsr convert --to openvino` wrote."""
    name: str = "LinearSR"
    """How the model is called in reports."""

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver {self.solver!r} is not one of {', '.join(get_args(Solver))}")
        if self.mean not in get_args(Mean):
            raise ValueError(f"mean {self.mean!r} is not one of {', '.join(get_args(Mean))}")
        if self.backend not in get_args(Backend):
            raise ValueError(f"backend {self.backend!r} is not one of {', '.join(get_args(Backend))}")
        if self.sigmas is not None and (
            self.sigmas[:1] != (1.0,) or any(s <= t for s, t in pairwise((*self.sigmas, 0.0)))
        ):
            raise ValueError(f"sigmas {self.sigmas} must fall strictly from 1 and stay above 0")
        if not (isfinite(self.flow_shift) and self.flow_shift > 0):
            raise ValueError(f"flow_shift {self.flow_shift:g} must be above 0")
        ranges = [r if isinstance(r, list) else [r] for r in (self.int8_ranges or {}).values()]
        if not all(isfinite(value) and value > 0 for of_channels in ranges for value in of_channels):
            raise ValueError("int8_ranges must be above 0")
        if self.clean_steps is not None and not 1 <= self.clean_steps <= self.num_inference_steps:
            raise ValueError(f"clean_steps {self.clean_steps}: from 1 to num_inference_steps")
        if not isfinite(self.clean_strength):
            raise ValueError(f"clean_strength {self.clean_strength} must be a number")
        _check_ranges(self.num_inference_steps, self.fidelity, self.color_fix, self.guidance_scale)

    def times(self, steps: int) -> list[float]:
        """The times of a walk of so many steps, from 1 to 0."""
        if self.sigmas is not None and len(self.sigmas) == steps:
            return [*self.sigmas, 0.0]
        return timesteps(steps, self.flow_shift)

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "PipelineConfig":
        """The settings among the entries of a `model_index.json`.

        Raises:
            ValueError: one that makes no sense or is of another type.
        """
        known = {field.name for field in fields(cls)}
        return from_json(cls, {key: value for key, value in index.items() if key in known})


@dataclass(frozen=True)
class Options:
    """What one call asks for; see `LinearSRPipeline.__call__`. Raises ValueError for a setting out of its range."""

    scale: float
    steps: int
    fidelity: float
    color_fix: ColourFix
    tags: TagRequest
    guidance_scale: float
    guidance: GuidanceTokens | None = None
    callback: StepCallback | None = None
    clean_steps: int | None = None
    """Other steps for a clean image, where the call leaves them to the model."""
    drawing: float | None = None
    """How far the image is from a photo, 0 to 1; None: to be measured, as the call leaves fidelity to the model."""

    def __post_init__(self) -> None:
        low, high = _SCALES
        if not low <= self.scale <= high:
            raise ValueError(f"scale {self.scale:g} is out of range: choose from {low:g} to {high:g}")
        _check_ranges(self.steps, self.fidelity, self.color_fix, self.guidance_scale)


def _check_ranges(steps: int, fidelity: float, color_fix: str, guidance_scale: float) -> None:
    """Of what a model sets and a call may set otherwise. Raises ValueError for a setting out of its range."""
    if steps < 0:
        raise ValueError(f"{steps} steps: at least 0 are needed")
    if not 0 <= fidelity <= 1:
        raise ValueError(f"fidelity {fidelity:g} is out of range: choose from 0 to 1")
    if color_fix not in get_args(ColourFix):
        raise ValueError(f"unknown color fix {color_fix!r}: choose from {', '.join(get_args(ColourFix))}")
    if not (isfinite(guidance_scale) and guidance_scale >= 0):
        raise ValueError(f"guidance scale {guidance_scale:g} is out of range: choose 0 or more")


def seeds_for(
    count: int,
    seed: int | Sequence[int],
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> list[int]:
    """A seed for each of `count` images, drawn from `generator` where given. Raises ValueError for another number."""
    if generator is not None:
        generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
        values = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
    else:
        # a fraction is no seed
        values = [index(each) for each in seed] if isinstance(seed, Sequence) else [index(seed)] * count
    if len(values) != count:
        raise ValueError(f"{len(values)} seeds or generators for {count} images: give one, or one for each")
    return values


def tokens_for(
    count: int, embeds: Tensor | None, mask: Tensor | None = None, channels: int | None = None
) -> list[GuidanceTokens | None]:
    """Guidance tokens (1, L, C) and mask (1, L) for each of `count` images, from those of one or of all.

    Args:
        channels: what C must be; None: any.

    Raises:
        ValueError: shapes that do not fit each other, the number of images or `channels`.
    """
    if embeds is None:
        if mask is not None:
            raise ValueError("guidance_mask needs guidance_embeds")
        return [None] * count
    if embeds.ndim != 3 or embeds.shape[0] not in (1, count):
        raise ValueError(
            f"guidance_embeds {tuple(embeds.shape)} for {count} images: give (1, L, C) or (images, L, C)"
        )
    if channels is not None and embeds.shape[2] != channels:
        raise ValueError(f"guidance_embeds have {embeds.shape[2]} channels, and the model takes {channels}")
    if mask is not None and mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"guidance_mask {tuple(mask.shape)} must be {tuple(embeds.shape[:2])}, as its tokens"
        )
    rows = [slice(i, i + 1) if len(embeds) == count else slice(0, 1) for i in range(count)]
    return [GuidanceTokens(embeds[row], None if mask is None else mask[row]) for row in rows]
