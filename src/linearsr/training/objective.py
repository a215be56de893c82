"""The interfaces of a stage: its settings and, if it takes training steps, its network, loss and prediction.

To add a kind of stage, subclass `Trained` or `Computed` with a `kind`, and add it to `config.Stage`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linearsr.guidance.vocabulary import Vocabulary
from linearsr.models.dc_ae import DeepCompressionCodec
from linearsr.runtime.checkpoints import PretrainedModule
from linearsr.training.data import DataConfig
from linearsr.training.parts import FROM_DISK, Parts
from linearsr.training.section import Section


class Batch(NamedTuple):
    """A batch of B samples."""

    lr: Tensor
    """(B, 3, h, w) in [-1, 1]"""
    hr: Tensor
    """(B, 3, H, W) in [-1, 1]"""
    tags: Tensor
    """(B, V): 1 for the tags of the photo, 0 for the others; V is 0 if the stage has no vocabulary."""
    seeds: list[int]
    """One seed per sample, B in all."""
    latent: Tensor = torch.empty(0)
    """(B, C, h', w'), the latent of `hr`; empty if it is not encoded yet."""


Part = PretrainedModule | DeepCompressionCodec
"""A part of a model that can be written as a folder."""


class Objective(ABC):
    """The interface between the trainer and a stage that takes training steps."""

    scale: int
    """Ratio of HR size to LR size."""
    multiple_of: int
    """LR sides must be multiples of this."""
    vocabulary: Vocabulary | None = None
    """The tags that `Batch.tags` describes; None if the stage uses no tags."""
    wants_latents: bool = False
    """Whether the stage can use latents that a DC-AE computed beforehand."""
    network: nn.Module
    """The trained network. The trainer may wrap it, and calls it only through `loss` and `predict`."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss by name: non-negative scalars, whose sum is minimised.

        Every sample has its own seed, so its random numbers do not depend on its neighbours, on the number of
        processes, or on where a run was interrupted.
        """

    @abstractmethod
    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return estimates of `batch.hr` by setting, e.g. {"mean": ..., "sample": ...}, each (B, 3, H, W)."""

    @abstractmethod
    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        """Return the trained parts by folder name in a model, with weights from a `state` of the network."""

    def frozen(self) -> list[nn.Module]:
        """Return the modules that are used but not trained."""
        own = {id(module) for module in self.network.modules()}
        return [part for part in vars(self).values() if isinstance(part, nn.Module) and id(part) not in own]

    def to(self, device: torch.device) -> None:
        """Move the frozen modules to `device`."""
        for part in self.frozen():
            part.to(device)


class Trained(Section):
    """Settings of a stage that takes training steps; each kind has a subclass with its `kind`."""

    def objective(self, parts: Parts = FROM_DISK) -> Objective:
        """Build the network with its initial weights, and its loss."""
        raise NotImplementedError


class Computed(Section):
    """Settings of a stage that computes its part directly, without training steps."""

    def check(self, parts: Parts, data: DataConfig) -> Mapping[str, Part]:
        """Return the parts that `compute` will write, by folder name; `parts` may read shapes only.

        Raises ConfigError: when `compute` could not work; one line that names the key.
        """
        raise NotImplementedError

    def compute(self, data: DataConfig, seed: int) -> tuple[Mapping[str, Part], Mapping[str, float]]:
        """Return the parts to write, by folder name, and figures to report.

        Raises ConfigError: when the data or parts do not fit; one line that names the key.
        """
        raise NotImplementedError


def states_of_parts(state: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Split a network's state by the first component of its names, which must be among `parts`."""
    states: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        states[part][rest] = tensor
    return states
