"""The walk from noise to a latent by rows: each step has the network layer by layer, each layer all rows.

A step writes the network's prediction, and then the state behind it, row by row. Estimates of the data are sums of
states and predictions at the same place, and are made where they are read. So no step is ever in memory whole, unless
its rows are one strip.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from linearsr.flow.experts import SNRExperts
from linearsr.flow.path import to_velocity
from linearsr.flow.sampler import Step
from linearsr.guidance.base import GuidanceTokens
from linearsr.models.bands import BlockRows, band_rows
from linearsr.models.blocks import TransformerBlock
from linearsr.models.rows import joined, through
from linearsr.models.transformer import Conditions, LinearSRTransformer
from linearsr.streaming.rows import Buffer, ReadRows, Report, Work, strips

OnStep = Callable[[int, float, Tensor | None], Tensor | None]
"""(step index, time reached, the latents there if they are whole) -> other latents to go on with, or None."""
_NOISE_AT_ONCE = 2**20
_BLOCK = 16
"""torch makes normal numbers in blocks of so many; a last part of a block is made from the end backwards."""


class Walk:
    """The steps of a walk.

    Args:
        features: the stem's, by rows of the latent grid.
        shape: of the latents, (B, C, h, w).
        strip: latent rows to work on at a time; None: all.
        steps: those to walk; none leaves the latents of zeros.
        guidance: what the network is told; None: its null tokens.
        mean: what the latents are led to by the share `fidelity`: zeros, or else what the first step takes the data
            to be.
    """

    def __init__(
        self,
        experts: SNRExperts,
        features: ReadRows,
        work: Work,
        shape: tuple[int, int, int, int],
        strip: int | None,
        steps: list[Step],
        guidance: GuidanceTokens | None,
        guidance_scale: float,
        fidelity: float,
        mean_is_zero: bool,
    ) -> None:
        self._experts, self._features, self._work = experts, features, work
        self.shape, self._steps = shape, steps
        self._is_whole, self._strip = strip is None, strip or shape[2]
        self._fidelity, self._mean_is_zero = fidelity, mean_is_zero
        self._scale = 1.0 if guidance is None else guidance_scale
        self._guidances = [("prediction", guidance)]
        if self._scale != 1:
            self._guidances.insert(0, ("null", None))
        with experts.at(1000.0) as network:
            positions = shape[2] * shape[3] // cast(LinearSRTransformer, network).config.patch_size ** 2
            # while the expert is in use: another thread may have another one in its place
            table = next(network.parameters())
            self._evaluation_cost = sum(p.numel() for p in network.parameters()) * positions
        self._dtype, self._device = table.dtype, table.device
        self.cost = len(steps) * len(self._guidances) * self._evaluation_cost

    def run(self, seeds: Sequence[int], on_step: OnStep) -> None:
        """Walk from the noise of those seeds, one for each image."""
        if self._steps:
            self._work.do("noise", 0, lambda report: self._draw_noise(seeds, report))
        for i, step in enumerate(self._steps):
            label = f"step {i + 1} of {len(self._steps)}"
            for name, guidance in self._guidances:
                evaluate = partial(self._evaluate, i, name, guidance)
                self._work.do(label, self._evaluation_cost, evaluate)
            self._work.do(label, 0, partial(self._advance, i))
            self._drop_up_to(i)
            whole = self._state(i + 1, 0, self.shape[2]) if self._is_whole else None
            replaced = on_step(i, step.reached, whole)
            if replaced is not None and whole is not None:
                self._state_buffer(i + 1).write(0, replaced.to(whole))
        self._work.drop("tokens")

    def latent(self, top: int, bottom: int) -> Tensor:
        """Rows of where the walk ended, led to the mean, (B, C, bottom - top, w)."""
        batch, channels, _, width = self.shape
        if not self._steps:
            return torch.zeros(batch, channels, bottom - top, width, device=self._device)
        walked = self._state(len(self._steps), top, bottom)
        if not self._fidelity:
            return walked
        mean = torch.zeros_like(walked)
        if not self._mean_is_zero:
            mean = self._estimate(0, self._state(0, top, bottom), top, bottom)
        return torch.lerp(walked, mean, self._fidelity)

    def _estimate(self, i: int, z: Tensor, top: int, bottom: int) -> Tensor:
        """Rows of what step `i`, which begins at `z`, took the data to be."""
        time = self._steps[i].time
        velocities = []
        for name, _ in self._guidances:
            # one layout for all that is computed with: another is rounded in another way
            prediction = (
                self._prediction(f"{name} {i}").read(top, bottom).to(self._device).float().contiguous()
            )
            velocities.append(to_velocity(prediction, z, time, self._experts.config.prediction_type))
        if len(velocities) == 1:
            return z - time * velocities[0]
        return z - time * torch.lerp(velocities[0], velocities[1], self._scale)

    def _state(self, i: int, top: int, bottom: int) -> Tensor:
        """z at the beginning of step `i`."""
        if i:
            return self._state_buffer(i).read(top, bottom).to(self._device).contiguous()
        batch, channels, height, width = self.shape
        planes = [
            self._noise().read((c * height + top) * width, (c * height + bottom) * width).flatten()
            for c in range(batch * channels)
        ]
        return torch.stack(planes).view(batch, channels, bottom - top, width).to(self._device)

    def _draw_noise(self, seeds: Sequence[int], report: Report) -> None:
        """Number for number those of `initial_noise`, without holding all."""
        each = self.shape[1] * self.shape[2] * self.shape[3]
        for image, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            done = 0
            while done < each:
                left = each - done
                # whole blocks; the last piece takes the broken one with a whole one before it
                size = _NOISE_AT_ONCE if left >= _NOISE_AT_ONCE + _BLOCK else left
                numbers = torch.empty(size).normal_(generator=generator)
                self._noise().write(image * each + done, numbers.view(1, 1, -1, 1))
                done += size
            report((image + 1) / len(seeds))

    def _advance(self, i: int, report: Report) -> None:
        """Write the state behind step `i`."""
        for top, bottom in strips(self.shape[2], self._strip):
            step, z, before = self._steps[i], self._state(i, top, bottom), None
            if i > 0 and step.extrapolation != 1:
                before = self._estimate(i - 1, self._state(i - 1, top, bottom), top, bottom)
            self._state_buffer(i + 1).write(top, step.advance(z, self._estimate(i, z, top, bottom), before))
            report(bottom / self.shape[2])

    def _evaluate(self, i: int, name: str, guidance: GuidanceTokens | None, report: Report) -> None:
        timestep = 1000 * self._steps[i].time
        batch, _, height, width = self.shape
        with self._experts.at(timestep) as expert:
            network = cast(LinearSRTransformer, expert)
            patch = network.config.patch_size
            embeds, mask = guidance or (None, None)
            said = network.conditions(
                torch.tensor([timestep], dtype=torch.float32, device=self._device),
                None if embeds is None else embeds.to(self._device, self._dtype),
                None if mask is None else mask.to(self._device),
            )
            grid = batch, network.config.width, height // patch, width // patch
            evaluate(
                network,
                said,
                lambda top, bottom: self._state(i, top, bottom).to(self._dtype),
                self._features if network.config.lr_channels else None,
                self._prediction(f"{name} {i}"),
                self._work.buffer("tokens", grid, self._dtype),
                grid,
                max(1, self._strip // patch),
                report,
            )

    def _prediction(self, name: str) -> Buffer:
        return self._work.buffer(name, self.shape, self._dtype)

    def _state_buffer(self, i: int) -> Buffer:
        return self._work.buffer(f"state {i}", self.shape, torch.float32)

    def _noise(self) -> Buffer:
        batch, channels, height, width = self.shape
        return self._work.buffer("noise", (1, 1, batch * channels * height * width, 1), torch.float32)

    def _drop_up_to(self, i: int) -> None:
        """Let go of what no estimate is made of any more once the state behind step `i` is there."""
        mean_is_first = self._fidelity > 0 and not self._mean_is_zero
        extrapolated = i + 1 < len(self._steps) and self._steps[i + 1].extrapolation != 1
        for step in range(max(0, i - 1), i + 1):
            if (step == i and extrapolated) or (step == 0 and mean_is_first):
                continue
            for name in ("state", *(name for name, _ in self._guidances)):
                self._work.drop("noise" if (name, step) == ("state", 0) else f"{name} {step}")


def evaluate(
    network: LinearSRTransformer,
    said: Conditions,
    latent: ReadRows,
    features: ReadRows | None,
    output: Buffer,
    waiting: Buffer,
    grid: tuple[int, int, int, int],
    strip: int,
    report: Report,
) -> None:
    """One evaluation of a network into `output`, for one time and one guidance, exactly with all tokens' attention.

    Args:
        latent, features: rows of what goes in.
        waiting: for tokens between two blocks.
        grid: of the tokens, (B, C, h, w).
        strip: rows of tokens to work on at a time.
    """
    batch, channels, height, width = grid
    patch = network.config.patch_size
    # whole bands: they are those of the picture in one piece, and so are the sums, to the last bit
    strip = -(-strip // band_rows(width)) * band_rows(width)

    def given(top: int, bottom: int) -> Tensor | None:
        return None if features is None else features(top * patch, bottom * patch)

    def bands(rows: BlockRows, image: int) -> Iterator[Tensor]:
        for top, bottom in strips(height, strip):
            x = waiting.read(top, bottom)[image].to(said.modulation.device)
            yield from rows.bands(x.permute(1, 2, 0).flatten(0, 1))

    def unpatched() -> Iterator[Tensor]:
        for top, bottom in strips(height, strip):
            x = waiting.read(top, bottom).to(said.modulation.device).permute(0, 2, 3, 1).flatten(1, 2)
            image, seen = network.unpatch(x, said.embedded, (bottom - top, width)), given(top, bottom)
            yield image if seen is None else joined(image, seen.to(image.dtype))

    for top, bottom in strips(height, strip):
        x = network.embed(latent(top * patch, bottom * patch), given(top, bottom))
        waiting.write(top, x.view(batch, bottom - top, width, -1).permute(0, 3, 1, 2))
    for i, block in enumerate(cast(list[TransformerBlock], network.transformer_blocks)):
        images = [BlockRows(block, said.context, said.bias, said.modulation[0], width) for _ in range(batch)]
        outputs = [rows.outputs(partial(bands, rows, image)) for image, rows in enumerate(images)]
        done = 0
        # rows come out later than they went in, so nothing is overwritten that is still to be read
        for outs in zip(*outputs, strict=True):
            x = (torch.stack(outs) if batch > 1 else outs[0]).view(batch, -1, width, channels)
            waiting.write(done, x.permute(0, 3, 1, 2))
            done += x.shape[1]
        report((i + 1) / len(network.transformer_blocks))
    done = 0
    for image in through(network.last_rows(), unpatched()):
        output.write(done, image)
        done += image.shape[2]
