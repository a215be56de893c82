"""The exponential moving average of the weights, which is what is validated and kept.

It is a state beside the network and no second network, so that it also holds the shards of a network that is split
over several devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Average of the parameters; buffers are copied. The decay grows from zero, so that the start is soon forgotten."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters = {name for name, _ in network.named_parameters()}
        self.state: dict[str, Tensor] = {
            name: tensor.detach().clone() for name, tensor in network.state_dict().items()
        }

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averaged, current = [], []
        for name, tensor in network.state_dict().items():
            if name in self._parameters:
                averaged.append(self.state[name])
                current.append(tensor)
            else:
                self.state[name].copy_(tensor)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def restore_buffers(self, network: nn.Module) -> None:
        """Give `network` the buffers back that it had after its last good step."""
        buffers = {name: tensor for name, tensor in self.state.items() if name not in self._parameters}
        _copy({**network.state_dict(), **buffers}, network)

    @contextmanager
    def applied_to(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        _copy(self.state, network)
        try:
            yield
        finally:
            _copy(own, network)


@torch.no_grad()
def _copy(state: dict[str, Tensor], network: nn.Module) -> None:
    for name, tensor in network.state_dict().items():
        tensor.copy_(state[name])
