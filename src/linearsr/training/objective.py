"""What a stage is: its settings, and, where it takes training steps, the network, its loss and its prediction.

A new kind of stage is a subclass of `Trained` or `Computed` with a `kind`, named in `config.Stage`.
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
    """B samples."""

    lr: Tensor
    """(B, 3, h, w) in [-1, 1]"""
    hr: Tensor
    """(B, 3, H, W) in [-1, 1]"""
    tags: Tensor
    """(B, V): 1 for the tags of the photo, 0 for the others; V is 0 where the stage has no vocabulary."""
    seeds: list[int]
    """One for each sample."""
    latent: Tensor = torch.empty(0)
    """(B, C, h', w') of `hr`; empty where it is still to be encoded."""


Part = PretrainedModule | DeepCompressionCodec
"""A part of a model, which can be written as a folder."""


class Objective(ABC):
    """What the trainer asks of a stage that takes training steps."""

    scale: int
    """HR size over LR size."""
    multiple_of: int
    """LR sides must be multiples of this."""
    vocabulary: Vocabulary | None = None
    """The tags that it wants to be told of."""
    wants_latents: bool = False
    """Whether latents that a DC-AE made before are of use."""
    network: nn.Module
    """What is trained; the trainer may wrap it, and calls it through `loss` and `predict` only."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms of the loss, none negative; their sum is minimised.

        Every sample has a seed of its own: what is drawn for it does not depend on its neighbours, on the number of
        processes, or on where a run was interrupted.
        """

    @abstractmethod
    def predict(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Estimates of `batch.hr` by setting, e.g. {"mean": ..., "sample": ...}; the values are (B, 3, H, W)."""

    @abstractmethod
    def parts(self, state: Mapping[str, Tensor]) -> Mapping[str, Part]:
        """The trained parts, by their folder names in a model, with the weights of `state`, one of the network's."""

    def frozen(self) -> list[nn.Module]:
        """What is used but not trained."""
        own = {id(module) for module in self.network.modules()}
        return [part for part in vars(self).values() if isinstance(part, nn.Module) and id(part) not in own]

    def to(self, device: torch.device) -> None:
        """Move what is used but not trained."""
        for part in self.frozen():
            part.to(device)


class Trained(Section):
    """Settings of a stage that takes training steps; each kind has a subclass with its `kind`."""

    def objective(self, parts: Parts = FROM_DISK) -> Objective:
        """The network with its first weights, and its loss."""
        raise NotImplementedError


class Computed(Section):
    """Settings of a stage that makes its part at once, without training steps."""

    def check(self, parts: Parts, data: DataConfig) -> Mapping[str, Part]:
        """What it will write, by folder name, of parts of which only shapes are known.

        Raises ConfigError: one line that names the key, where `compute` could not work.
        """
        raise NotImplementedError

    def compute(self, data: DataConfig, seed: int) -> tuple[Mapping[str, Part], Mapping[str, float]]:
        """What it writes, by folder name, and figures to report. Raises ConfigError: one line that names the key."""
        raise NotImplementedError


def states_of_parts(state: Mapping[str, Tensor], parts: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """A network's state, split by the first component of its names, which must be among `parts`."""
    states: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for name, tensor in state.items():
        part, _, rest = name.partition(".")
        states[part][rest] = tensor
    return states
