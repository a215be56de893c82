"""The way of an image through the model, from top to bottom: `_run` holds the steps of the paper in order.

Shape legend: B batch, h w LR size, H W HR size at the model's own scale. Inside, image values are in [-1, 1].
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
from linearsr.streaming.passes import DecodedRows, FinishedRows, StemRows, TrunkRows, ZeroLatents, mixed
from linearsr.streaming.rows import LRRows, Pass, ReadRows, Work, work_of

if TYPE_CHECKING:
    from linearsr.flow.sampler import Step
    from linearsr.streaming.flow import OnStep, Walk


class ImageWay(LinearSRModel):
    """A model that turns LR images of one size into HR images, in strips of rows or all rows at once."""

    @torch.inference_mode()
    def _run(
        self,
        lr: LRRows,
        seeds: Sequence[int],
        options: Options,
        work: Work,
        write: Callable[[NDArray[np.float32]], None],
    ) -> tuple[str, ...]:
        """Run LR images through all passes, from top to bottom, in strips of rows or all rows at once.

        Args:
            options: settled for these images (see `_settled`).
            write: takes rows (B, n, W, 3) of the results in [0, 1], one strip after the other.

        Returns:
            The tags that guided them.
        """
        stem, walk, tags = self._to_latents(lr, seeds, options, work)

        # Codec: latents become pixels. With the residual codec they are the error of the stem's prediction.
        decoded = DecodedRows(self.codec, walk.latent, stem.condition, lr, work, walk.shape)
        picture: ReadRows = decoded.read
        passes: list[Pass] = [stem, walk, decoded]

        # No step: the trunk draws the picture; more fidelity takes more of the stem's prediction, edges first.
        if self.trunk is not None and options.steps == 0 and options.fidelity < 1:
            drawn = TrunkRows(self.trunk, lr, work)
            picture = mixed(drawn.read, decoded.read, options.fidelity, self.scale * lr.height)
            passes = [drawn, *(passes if options.fidelity else [])]

        # Finish: the colours of the LR image, and the requested scale.
        finished = FinishedRows(picture, lr, work, self.scale, options, write)
        work.run(*passes, finished)
        return tags

    def _to_latents(
        self, lr: LRRows, seeds: Sequence[int], options: Options, work: Work
    ) -> "tuple[StemRows, Walk | ZeroLatents, tuple[str, ...]]":
        """Return the passes from LR images to their latents, and the tags that guide them."""
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
        """Return the options with a fidelity that suits the LR image, if the call leaves it to the model."""
        if options.drawing is not None:
            return options
        drawing = likeness_to_drawing(lr.unpadded, lr.own_size)
        return replace(options, drawing=drawing, fidelity=options.fidelity + (1 - options.fidelity) * drawing)

    def guide(
        self, lr: Callable[[], Tensor], options: Options
    ) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
        """Return guidance tokens for one LR image, None for the null tokens, and the tags behind them.

        Args:
            lr: returns the image (1, 3, h, w) in [-1, 1]; called only if the model's own guidance is used.
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
        """Return the steps to take; none for 0 steps, or if the stem's prediction is the whole result."""
        if options.steps == 0 or (options.fidelity == 1 and self.config.mean == "stem"):
            return []
        from linearsr.flow.sampler import plan

        times = self.config.times(options.steps)
        # the mean is the first step's estimate: no other step is needed
        return plan(times if options.fidelity < 1 else times[:2], self.config.solver)

    def _colours(
        self, lr: LRRows, seeds: Sequence[int], options: Options, strip: int | None = None
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return the results (B, H, W, 3) in [0, 1] for LR images, and the tags that guided them.

        Args:
            strip: LR rows per strip; None: all.
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
        """Return the latents (B, C, h', w') of LR images, and the tags that guided them."""
        work = Work()
        stem, walk, tags = self._to_latents(lr, seeds, options, work)
        work.run(stem, walk)
        return walk.latent(0, walk.shape[2]), tags

    def _rows(self, lr: Tensor) -> LRRows:
        """Wrap LR images (B, 3, h, w) as rows."""
        size = lr.shape[-2], lr.shape[-1]
        return LRRows(lambda top, bottom: lr[:, :, top:bottom], size, self.multiple_of, self.device, len(lr))

    def _strip(self, rows: int | None) -> int | None:
        """Round a number of LR rows down to whole rows of tokens, at least one; None stays None."""
        return rows and max(1, rows // self.multiple_of) * self.multiple_of

    def _on_step(self, options: Options) -> "OnStep":
        """Return a function that calls the caller's callback, with the latents if they are whole."""

        def on_step(step: int, time: float, latents: Tensor | None) -> Tensor | None:
            if options.callback is None:
                return None
            state: dict[str, Any] = {} if latents is None else {"latents": latents}
            told = options.callback(self, step, time, {**state, "steps": len(self.steps(options))})
            return (told or {}).get("latents")

        return on_step
