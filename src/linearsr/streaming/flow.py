"""The walk from noise to a latent, of which no step is ever in memory whole.

A step writes its state and the network's prediction, row by row. All else that the sampler knows, estimates of the
data and the state after the step, is a sum of these at the same place, and is made where it is read.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from linearsr.flow.experts import SNRExperts
from linearsr.flow.path import to_velocity
from linearsr.flow.sampler import Step
from linearsr.guidance.base import GuidanceTokens
from linearsr.models.transformer import LinearSRTransformer
from linearsr.streaming.buffers import Buffer
from linearsr.streaming.network import ReadRows, StreamedEvaluation
from linearsr.streaming.noise import NoiseRows
from linearsr.streaming.work import Report, Work


class StreamedFlow:
    """The steps of one picture's walk, as passes of `work`.

    Args:
        features: the stem's, by rows of the latent grid.
        grid: channels, height and width of the latent.
        strip: latent rows to work on at a time.
        steps: those to walk; none leaves the latent of zeros.
        guidance: what the network is told; None: its null tokens.
    """

    def __init__(
        self,
        experts: SNRExperts,
        features: ReadRows,
        work: Work,
        grid: tuple[int, int, int],
        strip: int,
        steps: list[Step],
        guidance: GuidanceTokens | None,
        guidance_scale: float,
    ) -> None:
        self._experts, self._features, self._work = experts, features, work
        self._grid, self._strip, self._steps = grid, strip, steps
        table = next(experts.parameters())
        self._dtype, self._device = table.dtype, table.device
        self._scale = 1.0 if guidance is None else guidance_scale
        self._guidances = [("prediction", guidance)]
        if self._scale != 1:
            self._guidances.insert(0, ("null", None))
        self._noise = NoiseRows(work.buffer("noise", grid[0] * grid[1] * grid[2], (), torch.float32), grid)

    @property
    def evaluations(self) -> int:
        """How often the network runs."""
        return len(self._steps) * len(self._guidances)

    def run(self, seed: int, cost: float, on_step: Callable[[int, float], None]) -> None:
        """Walk. `cost` is that of one evaluation."""
        if self._steps:
            self._work.do("noise", "noise", 0, lambda _, report: self._noise.draw(seed, report))
        for i, step in enumerate(self._steps):
            if i > 0:
                self._work.do(f"state {i}", self._label(i), 0, partial(self._write_state, i))
            for name, guidance in self._guidances:
                self._evaluate(i, name, guidance, cost)
            if i > 2:
                # the first estimate may be wanted as the mean
                self._drop(i - 2)
            on_step(i, step.reached)
        for name in ("tokens 0", "tokens 1"):
            self._work.drop(name)

    def latent(self, top: int, bottom: int) -> Tensor:
        """Rows of where the walk ended, (1, C, bottom - top, w)."""
        if not self._steps:
            return torch.zeros(1, self._grid[0], bottom - top, self._grid[2], device=self._device)
        return self._state_after(len(self._steps) - 1, top, bottom)

    def estimate(self, i: int, top: int, bottom: int) -> Tensor:
        """Rows of what step `i` took the data to be."""
        time = self._steps[i].time
        z = self._state(i, top, bottom)
        velocities = []
        for name, _ in self._guidances:
            rows = self._prediction(f"{name} {i}").read(top, bottom).to(self._device)
            prediction = rows.permute(2, 0, 1)[None].float().contiguous()
            velocities.append(to_velocity(prediction, z, time, self._experts.config.prediction_type))
        if len(velocities) == 1:
            return z - time * velocities[0]
        return z - time * torch.lerp(velocities[0], velocities[1], self._scale)

    def _state(self, i: int, top: int, bottom: int) -> Tensor:
        """z at the beginning of step `i`."""
        if i == 0:
            return self._noise.read(top, bottom).to(self._device)
        rows = self._state_buffer(i).read(top, bottom).to(self._device)
        return rows.permute(2, 0, 1)[None].contiguous()

    def _state_after(self, i: int, top: int, bottom: int) -> Tensor:
        before = self.estimate(i - 1, top, bottom) if i > 0 else None
        return self._steps[i].advance(self._state(i, top, bottom), self.estimate(i, top, bottom), before)

    def _write_state(self, i: int, _: Tensor | None, report: Report) -> None:
        buffer = self._state_buffer(i)
        for top in range(0, self._grid[1], self._strip):
            bottom = min(self._grid[1], top + self._strip)
            buffer.write(top, self._state_after(i - 1, top, bottom)[0].permute(1, 2, 0))
            report(bottom / self._grid[1])

    def _evaluate(self, i: int, name: str, guidance: GuidanceTokens | None, cost: float) -> None:
        timestep = 1000 * self._steps[i].time
        _, height, width = self._grid
        with self._experts.at(timestep) as expert:
            network = expert
            assert isinstance(network, LinearSRTransformer)
            patch = network.config.patch_size
            tokens = [
                self._work.buffer(
                    f"tokens {k}", height // patch, (width // patch, network.config.width), self._dtype
                )
                for k in range(2)
            ]
            embeds, mask = guidance or (None, None)
            said = network.conditions(
                torch.tensor([timestep], dtype=torch.float32, device=self._device),
                None if embeds is None else embeds.to(self._device, self._dtype),
                None if mask is None else mask.to(self._device),
            )
            evaluation = StreamedEvaluation(
                network,
                said,
                lambda top, bottom: self._state(i, top, bottom).to(self._dtype),
                self._features,
                self._prediction(f"{name} {i}"),
                (tokens[0], tokens[1]),
                (height, width),
                self._strip,
            )
            for part, body in evaluation.passes:
                share = cost / len(evaluation.passes)
                self._work.do(f"{name} {i} {part}", self._label(i), share, body)

    def _label(self, i: int) -> str:
        return f"step {i + 1} of {len(self._steps)}"

    def _prediction(self, name: str) -> Buffer:
        channels, height, width = self._grid
        return self._work.buffer(name, height, (width, channels), self._dtype)

    def _state_buffer(self, i: int) -> Buffer:
        channels, height, width = self._grid
        return self._work.buffer(f"state {i}", height, (width, channels), torch.float32)

    def _drop(self, i: int) -> None:
        self._work.drop(f"state {i}")
        for name, _ in self._guidances:
            self._work.drop(f"{name} {i}")
