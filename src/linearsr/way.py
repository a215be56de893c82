"""An image's way through the model, from top to bottom: read `_run` and you have read the paper.

Shape legend: B batch, h w LR size, H W HR size at the model's own scale. Inside, images have values in [-1, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.guidance.base import GuidanceTokens, guide
from linearsr.images.graphics import likeness_to_drawing
from linearsr.images.resize import scaled_size
from linearsr.model import LinearSRModel
from linearsr.settings import Options
from linearsr.streaming.memory import buffer_bytes
from linearsr.streaming.passes import DecodedRows, FinishedRows, StemRows, TrunkRows, ZeroLatents
from linearsr.streaming.rows import LRRows, Pass, ReadRows, Work, work_of

if TYPE_CHECKING:
    from linearsr.flow.sampler import Step
    from linearsr.streaming.flow import OnStep, Walk


class ImageWay(LinearSRModel):
    """A model that takes LR images of one size to HR images, in strips of rows or in one."""

    @torch.inference_mode()
    def _run(
        self,
        lr: LRRows,
        seeds: Sequence[int],
        options: Options,
        work: Work,
        write: Callable[[NDArray[np.float32]], None],
    ) -> tuple[str, ...]:
        """LR images' way, in passes from top to bottom by strips of rows, or all rows at once.

        Args:
            options: as settled for the images.
            write: gets rows (B, n, W, 3) of the results in [0, 1], one strip after the other.

        Returns:
            The tags that guided them.
        """
        stem, walk, tags = self._to_latents(lr, seeds, options, work)

        # Codec: latents become pixels; for the residual codec they are what the stem's prediction lacks.
        decoded = DecodedRows(self.codec, walk.latent, stem.condition, lr, work, walk.shape)
        picture: ReadRows = decoded.read
        passes: list[Pass] = [stem, walk, decoded]

        # No step: the trunk draws the picture at once; the more fidelity, the nearer it comes to the stem's prediction.
        if self.trunk is not None and options.steps == 0 and options.fidelity < 1:
            drawn = TrunkRows(self.trunk, lr, work)
            picture = _between(drawn.read, decoded.read, options.fidelity)
            passes = [drawn, *(passes if options.fidelity else [])]

        # Colours of the LR image, and the scale that was asked for.
        finished = FinishedRows(picture, lr, work, self.scale, options, write)
        work.run(*passes, finished)
        return tags

    def _to_latents(
        self, lr: LRRows, seeds: Sequence[int], options: Options, work: Work
    ) -> "tuple[StemRows, Walk | ZeroLatents, tuple[str, ...]]":
        """The passes from LR images to their latents, and the tags that guide them."""
        # Guidance: what is in the picture, as tokens for the cross-attention.
        tokens, tags = self.guide(lambda: lr.unpadded(0, lr.own_size[0]), options)

        # LR stem: features that condition every step, and a prediction of the picture, its posterior mean.
        stem = StemRows(self.lr_stem, lr, work)

        # Flow: from noise to a latent, step by step; each step goes to the expert of its log-SNR.
        stride = self.lr_stem.multiple_of
        shape = lr.batch, self.codec.latent_channels, lr.height // stride, lr.width // stride
        steps = self.steps(options)
        if self.transformer is None or not steps:
            return stem, ZeroLatents(lr, shape), tags
        from linearsr.streaming.flow import Walk

        walk = Walk(
            self.transformer,
            stem.features,
            lr,
            work,
            shape,
            steps,
            seeds,
            tokens,
            options.guidance_scale,
            options.fidelity,
            self.config.mean == "stem",
            self._on_step(options),
        )
        return stem, walk, tags

    @torch.inference_mode()
    def _settled(self, options: Options, lr: LRRows) -> Options:
        """The options with the fidelity that suits an LR image, where the call leaves it to the model."""
        if options.drawing is not None:
            return options
        drawing = likeness_to_drawing(lr.unpadded, lr.own_size)
        return replace(options, drawing=drawing, fidelity=options.fidelity + (1 - options.fidelity) * drawing)

    def guide(
        self, lr: Callable[[], Tensor], options: Options
    ) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
        """What steers the network for one LR image, None for its null tokens; the tags behind it.

        Args:
            lr: gives the image (1, 3, h, w) in [-1, 1] where it must be seen.
        """
        tokens: GuidanceTokens | None = None
        tags: tuple[str, ...] = ()
        if self.transformer is None or options.steps == 0:
            return tokens, tags
        if options.guidance_scale > 0 and options.guidance is not None:
            tokens = options.guidance
        elif options.guidance_scale > 0 and self.guidance is not None:
            tokens, tags = guide(lr(), self.guidance, self.tagger, *options.tags)
        null_is_seen = tokens is None or options.guidance_scale != 1
        if null_is_seen and not self.transformer.config.num_null_tokens:
            raise ValueError("this model cannot go without guidance: give tags, at a guidance scale of 1")
        return tokens, tags

    def steps(self, options: Options) -> "list[Step]":
        """The steps to walk: none where none is asked for, or the stem's prediction is all that is."""
        if options.steps == 0 or (options.fidelity == 1 and self.config.mean == "stem"):
            return []
        from linearsr.flow.sampler import plan

        times = self.config.times(options.steps)
        # the mean is the first step's estimate: no other step is needed
        return plan(times if options.fidelity < 1 else times[:2], self.config.solver)

    def _colours(
        self, lr: LRRows, seeds: Sequence[int], options: Options, strip: int | None = None
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """The results (B, H, W, 3) in [0, 1] for LR images, and the tags that guided them.

        Args:
            strip: LR rows to work on at a time; None: all.
        """
        colours = np.empty((lr.batch, *scaled_size(*lr.own_size, options.scale), 3), dtype=np.float32)
        done = 0

        def write(rows: NDArray[np.float32]) -> None:
            nonlocal done
            colours[:, done : done + rows.shape[1]] = rows
            done += rows.shape[1]

        needed = 0 if strip is None else buffer_bytes(self, lr.height, lr.width, len(self.steps(options)))
        with work_of(needed, self._strip(strip)) as work:
            return colours, self._run(lr, seeds, options, work, write)

    @torch.inference_mode()
    def _latents(self, lr: LRRows, seeds: Sequence[int], options: Options) -> tuple[Tensor, tuple[str, ...]]:
        """The latents (B, C, h', w') of LR images, and the tags that guided them."""
        work = Work()
        stem, walk, tags = self._to_latents(lr, seeds, options, work)
        work.run(stem, walk)
        return walk.latent(0, walk.shape[2]), tags

    def _rows(self, lr: Tensor) -> LRRows:
        """LR images (B, 3, h, w)."""
        size = lr.shape[-2], lr.shape[-1]
        return LRRows(lambda top, bottom: lr[:, :, top:bottom], size, self.multiple_of, self.device, len(lr))

    def _strip(self, rows: int | None) -> int | None:
        """So many LR rows, or a few less or more, as whole rows of tokens."""
        return rows and max(1, rows // self.multiple_of) * self.multiple_of

    def _on_step(self, options: Options) -> "OnStep":
        """Calls the caller's callback, with the latents where they are whole."""

        def on_step(step: int, time: float, latents: Tensor | None) -> Tensor | None:
            if options.callback is None:
                return None
            state: dict[str, Any] = {} if latents is None else {"latents": latents}
            told = options.callback(self, step, time, {**state, "steps": len(self.steps(options))})
            return (told or {}).get("latents")

        return on_step


def _between(drawn: ReadRows, mean: ReadRows, fidelity: float) -> ReadRows:
    """Rows on the line from the trunk's picture to the mean."""
    if fidelity == 0:
        return drawn
    return lambda top, bottom: torch.lerp(drawn(top, bottom), mean(top, bottom), fidelity)
