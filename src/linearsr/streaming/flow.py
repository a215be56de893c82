"""The walk from noise to a latent by rows: each step has the network layer by layer, each layer all rows.

A step writes the network's prediction, and then, row by row, the state that the solver makes of it in the place of the
one before. So no step is ever in memory whole, unless its rows are one strip.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast

import torch
from torch import Tensor

from linearsr.flow.experts import SNRExperts
from linearsr.flow.path import to_sample
from linearsr.flow.sampler import Step
from linearsr.guidance.base import GuidanceTokens
from linearsr.models.blocks import TransformerBlock, as_image, as_tokens, band_rows, bands
from linearsr.models.rows import joined, through
from linearsr.models.transformer import Conditions, LinearSRTransformer
from linearsr.streaming.rows import Buffer, LRRows, ReadRows, Report, Work, fill, strips

OnStep = Callable[[int, float, Tensor | None], Tensor | None]
"""(step index, time reached, the latents there if they are whole) -> other latents to go on with, or None."""
_NOISE_AT_ONCE = 2**20
_BLOCK = 16
"""torch makes normal numbers in blocks of so many; a last part of a block is made from the end backwards."""


@dataclass
class Walk:
    """The steps of a walk."""

    experts: SNRExperts
    features: ReadRows
    """The stem's, by rows of the latent grid."""
    lr: LRRows
    work: Work
    shape: tuple[int, int, int, int]
    """Of the latents, (B, C, h, w)."""
    steps: list[Step]
    """Those to walk, at least one."""
    seeds: Sequence[int]
    """Of the noise, one for each image."""
    guidance: GuidanceTokens | None
    """What the network is told; None: its null tokens."""
    guidance_scale: float
    fidelity: float
    """By which share the latents are led to the mean."""
    mean_is_zero: bool
    """Else the mean is what the first step takes the data to be."""
    on_step: OnStep

    def __post_init__(self) -> None:
        # classifier-free guidance: a second evaluation over the null tokens
        self._guidances: list[tuple[str, GuidanceTokens | None]] = [("prediction", self.guidance)]
        if self.guidance is not None and self.guidance_scale != 1:
            self._guidances.insert(0, ("null", None))

    @property
    def cost(self) -> float:
        """Of all evaluations."""
        return len(self.steps) * len(self._guidances) * self._evaluation_cost

    @cached_property
    def _evaluation_cost(self) -> int:
        with self.experts.at(1000.0) as network:
            parameters = sum(p.numel() for p in network.parameters())
        return parameters * self.shape[2] * self.shape[3] // int(self.experts.config.patch_size) ** 2

    def run(self) -> None:
        """Walk from noise at t = 1 to a latent at t = 0."""
        self.work.do("noise", 0, self._draw_noise)
        for i, step in enumerate(self.steps):
            label = f"step {i + 1} of {len(self.steps)}"
            for name, guidance in self._guidances:
                evaluate = partial(self._evaluate, step, name, guidance)
                self.work.do(label, self._evaluation_cost, evaluate)
            self.work.do(label, 0, partial(self._advance, i))
            whole = self._buffer("state").read(0, self.shape[2]) if self.work.strip is None else None
            replaced = self.on_step(i, step.reached, whole)
            if replaced is not None and whole is not None:
                self._buffer("state").write(0, replaced.to(whole))
        self.work.drop("tokens", "features", "null", "prediction", "data")

    def latent(self, top: int, bottom: int) -> Tensor:
        """Rows of where the walk ended, led to the mean, (B, C, bottom - top, w)."""
        walked = self._rows("state", top, bottom)
        if self.fidelity:
            mean = torch.zeros_like(walked) if self.mean_is_zero else self._rows("mean", top, bottom)
            walked = torch.lerp(walked, mean, self.fidelity)
        # one layout for all that is computed with: another is rounded in another way
        return walked.contiguous()

    def _draw_noise(self, report: Report) -> None:
        """Number for number those of `initial_noise`, without holding all."""
        batch, channels, height, width = self.shape
        each = channels * height * width
        noise = self.work.buffer("noise", (1, 1, batch * each, 1), torch.float32)
        for image, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            done = 0
            while done < each:
                left = each - done
                # whole blocks; the last piece takes the broken one with a whole one before it
                size = _NOISE_AT_ONCE if left >= _NOISE_AT_ONCE + _BLOCK else left
                numbers = torch.empty(size).normal_(generator=generator)
                noise.write(image * each + done, numbers.view(1, 1, -1, 1))
                done += size
            report((image + 1) / len(self.seeds))
        for top, bottom in self._strips():
            planes = [
                noise.read((plane * height + top) * width, (plane * height + bottom) * width).flatten()
                for plane in range(batch * channels)
            ]
            rows = torch.stack(planes).view(batch, channels, bottom - top, width).to(self.lr.device)
            self._buffer("state").write(top, rows.contiguous(memory_format=torch.channels_last))
        self.work.drop("noise")

    def _evaluate(self, step: Step, output: str, guidance: GuidanceTokens | None, report: Report) -> None:
        """What the network of the step's expert makes of the state, told one thing."""
        timestep, device = 1000 * step.time, self.lr.device
        # route to the expert: the log-SNR of the step, and so its time, decides which network takes it
        with self.experts.at(timestep) as expert:
            network = cast(LinearSRTransformer, expert)
            dtype = network.scale_shift_table.dtype
            embeds, mask = guidance or (None, None)
            said = network.conditions(
                torch.tensor([timestep], dtype=torch.float32, device=device),
                None if embeds is None else embeds.to(device, dtype),
                None if mask is None else mask.to(device),
            )
            batch, _, height, width = self.shape
            patch = network.config.patch_size
            grid = batch, network.config.width, height // patch, width // patch
            evaluate(
                network,
                said,
                lambda top, bottom: self._rows("state", top, bottom).to(dtype),
                self.features if network.config.lr_channels else None,
                self.work.buffer(output, self.shape, dtype),
                self.work.buffer("tokens", grid, dtype),
                grid,
                self.work.rows(grid[2], self.lr.height),
                report,
            )

    def _advance(self, i: int, report: Report) -> None:
        """The flow step: the state at the time that step `i` reaches, in the place of the one before."""
        step = self.steps[i]
        extrapolates_next = i + 1 < len(self.steps) and self.steps[i + 1].extrapolation != 1
        for top, bottom in self._strips():
            z, before = self._rows("state", top, bottom), None
            x0 = self._estimate(step, z, top, bottom)
            if step.extrapolation != 1:
                before = self._rows("data", top, bottom)
            self._buffer("state").write(top, step.advance(z, x0, before))
            if extrapolates_next:
                self._buffer("data").write(top, x0)
            if i == 0 and self.fidelity and not self.mean_is_zero:
                self._buffer("mean").write(top, x0)
            report(bottom / self.shape[2])

    def _estimate(self, step: Step, z: Tensor, top: int, bottom: int) -> Tensor:
        """Rows of what a step, which begins at `z`, takes the data to be."""
        kind = self.experts.config.prediction_type
        first, *guided = (
            to_sample(self._rows(name, top, bottom).float(), z, step.time, kind)
            for name, _ in self._guidances
        )
        return torch.lerp(first, guided[0], self.guidance_scale) if guided else first

    def _strips(self) -> Iterator[tuple[int, int]]:
        return strips(self.shape[2], self.work.rows(self.shape[2], self.lr.height))

    def _buffer(self, name: str) -> Buffer:
        return self.work.buffer(name, self.shape, torch.float32)

    def _rows(self, name: str, top: int, bottom: int) -> Tensor:
        return self._buffer(name).read(top, bottom).to(self.lr.device)


def evaluate(
    network: LinearSRTransformer,
    said: Conditions,
    latent: ReadRows,
    features: ReadRows | None,
    output: Buffer,
    tokens: Buffer,
    grid: tuple[int, int, int, int],
    strip: int,
    report: Report,
) -> None:
    """One evaluation of a network into `output`, for one time and one guidance, exactly with all tokens' attention.

    Args:
        latent: the state, in the network's type.
        tokens: where they are between two layers.
        grid: of the tokens, (B, C, h, w).
        strip: rows of tokens to work on at a time.
    """
    batch, _, height, width = grid
    patch, device = network.config.patch_size, said.modulation.device
    # whole bands: they are those of the picture in one piece, and so are the sums, to the last bit
    strip = -(-strip // band_rows(width)) * band_rows(width)

    def given(top: int, bottom: int) -> Tensor | None:
        return None if features is None else features(top * patch, bottom * patch)

    # patch embedding: the noisy latent and the LR features, joined on channels, become tokens
    for top, bottom in strips(height, strip):
        x = network.embed(latent(top * patch, bottom * patch), given(top, bottom))
        tokens.write(top, as_image(x, width))

    def one_by_one(image: int) -> Iterator[Tensor]:
        for top, bottom in strips(height, strip):
            yield from bands(tokens.read(top, bottom)[image : image + 1].to(device))

    # the blocks: linear attention needs a sum over the whole image, so all rows pass one before the next begins
    for i, block in enumerate(cast(list[TransformerBlock], network.transformer_blocks)):
        outputs = [
            block.by_rows(partial(one_by_one, image), said.context, said.bias, said.modulation[0])
            for image in range(batch)
        ]
        # rows come out later than they went in, so nothing is overwritten that is still to be read
        fill(tokens, map(torch.cat, zip(*outputs, strict=True)))
        report((i + 1) / len(network.transformer_blocks))

    # the way out: tokens become patches of the latent again, and see the LR features once more
    def unpatched() -> Iterator[Tensor]:
        for top, bottom in strips(height, strip):
            x = as_tokens(tokens.read(top, bottom).to(device))
            image, seen = network.unpatch(x, said.embedded, (bottom - top, width)), given(top, bottom)
            yield image if seen is None else joined(image, seen.to(image.dtype))

    fill(output, through(network.last_rows(), unpatched()))
