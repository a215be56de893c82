"""The stage that interpolates the weights of two networks.

A stem that learns new degradations forgets a little of the old ones. On the straight line from the old
weights to the new ones, most of the new is gained before much of the old is lost (Wortsman et al. 2022,
"Robust fine-tuning"). Two samplers trained against a discriminator each have their own faults, which a
network between them has only in part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import Field

from linearsr.model_folder import STEMS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.runtime.checkpoints import PretrainedModule
from linearsr.runtime.files import prefixed
from linearsr.training.data import DataConfig
from linearsr.training.objective import Computed, Part
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import ConfigError

_Network = TypeVar("_Network", bound=PretrainedModule)
_KINDS: dict[str, type[PretrainedModule]] = {**STEMS, LinearSRTransformer.__name__: LinearSRTransformer}


class BlendStage(Computed):
    """A stage that interpolates the weights of two networks of the same shape."""

    kind: Literal["blend"]
    before: Path
    """Folder of the network before training."""
    after: Path
    """Folder of the same network after training."""
    share: float = Field(0.5, ge=0, le=1)
    """Position of the result between `before` (0) and `after` (1)."""

    def check(self, parts: Parts, data: DataConfig) -> Mapping[str, Part]:
        return {self.before.name: self._both(parts)[0]}

    def compute(self, data: DataConfig, seed: int) -> tuple[dict[str, Part], dict[str, float]]:
        with prefixed("stage.after: ", ConfigError):
            return {self.before.name: interpolate(*self._both(FROM_DISK), self.share)}, {}

    def _both(self, parts: Parts) -> tuple[PretrainedModule, PretrainedModule]:
        what = "a network to blend"
        before = parts.read("stage.before", self.before, _KINDS, what)
        return before, parts.read("stage.after", self.after, _KINDS, what)


def interpolate(before: _Network, after: PretrainedModule, share: float) -> _Network:
    """Return the network at `share` between `before` (0) and `after` (1); counters are those of `before`.

    Raises ValueError: when the networks differ in shape.
    """
    if before.config != after.config:
        raise ValueError("the two networks differ in shape: one must have been trained on from the other")
    state, other = before.state_dict(), after.state_dict()
    for name, weight in state.items():
        if weight.is_floating_point():
            state[name] = torch.lerp(weight.float(), other[name].float(), share)
    return type(before).from_state(before.config, state, "interpolated")
