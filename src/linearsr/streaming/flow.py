"""The walk from noise to a latent by rows: a step runs the network layer by layer, a layer over all rows.

A step writes the network's prediction. Then the solver replaces the state by the next one, strip by strip. No
step is ever whole in memory, unless a single strip holds all its rows.
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
"""(step index, time reached, latents if they are whole) -> latents to continue with, or None to keep them."""
_NOISE_AT_ONCE = 2**20
_BLOCK = 16
"""torch draws normal numbers in blocks of 16; if the last is incomplete, it draws the last 16 anew."""


@dataclass
class Walk:
    """The walk from noise to latents, in one evaluation or two per step."""

    experts: SNRExperts
    features: ReadRows
    """Reads the stem's features, by rows of the latent grid."""
    lr: LRRows
    work: Work
    shape: tuple[int, int, int, int]
    """Shape of the latents, (B, C, h, w)."""
    steps: list[Step]
    """The steps to walk, at least one."""
    seeds: Sequence[int]
    """Seeds of the noise, one for each image."""
    guidance: GuidanceTokens | None
    """Guidance tokens for the network; None uses its null tokens."""
    guidance_scale: float
    fidelity: float
    """Share by which the latents are moved to the mean: 0 keeps them, 1 gives the mean."""
    mean_is_zero: bool
    """Whether the mean is zero; otherwise it is the first step's estimate of the data."""
    on_step: OnStep

    def __post_init__(self) -> None:
        # classifier-free guidance: a second evaluation, with the null tokens
        self._guidances: list[tuple[str, GuidanceTokens | None]] = [("prediction", self.guidance)]
        if self.guidance is not None and self.guidance_scale != 1:
            self._guidances.insert(0, ("null", None))

    @property
    def cost(self) -> float:
        """Approximate cost of all evaluations, in multiply-accumulates."""
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
        """Read rows of the final latents, moved to the mean by `fidelity`: (B, C, bottom - top, w)."""
        walked = self._rows("state", top, bottom)
        if self.fidelity:
            mean = torch.zeros_like(walked) if self.mean_is_zero else self._rows("mean", top, bottom)
            walked = torch.lerp(walked, mean, self.fidelity)
        # always the same memory layout, because another layout rounds differently
        return walked.contiguous()

    def _draw_noise(self, report: Report) -> None:
        """Draw the same numbers as `initial_noise`, without holding all of them in memory."""
        batch, channels, height, width = self.shape
        each = channels * height * width
        noise = self.work.buffer("noise", (1, 1, batch * each, 1), torch.float32)
        for image, seed in enumerate(self.seeds):
            generator = torch.Generator().manual_seed(seed)
            done = 0
            while done < each:
                left = each - done
                # pieces of whole blocks; the last piece has the incomplete block, and a whole one before it
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
        """Evaluate the expert of a step on the state with one guidance, into the buffer called `output`."""
        timestep, device = 1000 * step.time, self.lr.device
        # route to the expert: the time of the step, and so its log-SNR, decides which network evaluates it
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
        """Take flow step `i`: replace the state by the one at the time that the step reaches."""
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
        """Return rows of the estimate of the data at a step that begins at `z`."""
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
    """Evaluate a network into `output`, for one time and one guidance; attention spans all tokens, exactly.

    Args:
        said: the embedded time and guidance.
        latent: reads rows of the state, in the network's type.
        features: reads rows of the stem's features; None if the network takes none.
        tokens: buffer for the tokens between two layers.
        grid: shape of the tokens, (B, C, h, w).
        strip: rows of tokens to work on at a time.
    """
    batch, _, height, width = grid
    patch, device = network.config.patch_size, said.modulation.device
    # strips of whole bands, so that sums are the same to the last bit as those of the picture in one piece
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

    # the blocks: linear attention sums over the whole image, so all rows pass a block before the next begins
    for i, block in enumerate(cast(list[TransformerBlock], network.transformer_blocks)):
        outputs = [
            block.by_rows(partial(one_by_one, image), said.context, said.bias, said.modulation[0])
            for image in range(batch)
        ]
        # rows come out later than they went in, so no row is overwritten before it is read
        fill(tokens, map(torch.cat, zip(*outputs, strict=True)))
        report((i + 1) / len(network.transformer_blocks))

    # the output: tokens become patches of the latent again, joined with the LR features once more
    def unpatched() -> Iterator[Tensor]:
        for top, bottom in strips(height, strip):
            x = as_tokens(tokens.read(top, bottom).to(device))
            image, seen = network.unpatch(x, said.embedded, (bottom - top, width)), given(top, bottom)
            yield image if seen is None else joined(image, seen.to(image.dtype))

    fill(output, through(network.last_rows(), unpatched()))
