"""The user-facing pipeline: images of any kind in, upscaled images out. The steps between are in `way.py`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from linearsr.guidance.base import tokens_for
from linearsr.images.alpha import checked_alpha, resize_alpha
from linearsr.images.convert import ImageInput, OutputType, as_list, as_picture, from_picture, lr_tensor
from linearsr.images.picture import FloatArray, Picture
from linearsr.runtime.devices import is_out_of_memory, require_memory
from linearsr.settings import Asked, ColourFix, Options, PipelineConfig, StepCallback, seeds_for
from linearsr.streaming.memory import buffer_bytes, fits_whole, strip_rows_for, whole_bytes
from linearsr.streaming.rows import LRRows, Progress, RowReader, RowWriter, rows_of, work_of
from linearsr.way import ImageWay

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ColourFix", "LinearSROutput", "LinearSRPipeline", "PipelineConfig", "StepCallback"]


@dataclass(frozen=True)
class LinearSROutput:
    """Upscaled images in the order of the inputs."""

    images: list[Any]
    """PIL images, arrays (H, W, C) in [0, 1], tensors (C, H, W) in [0, 1], or latents (C, h', w')."""
    tags: list[tuple[str, ...]] = field(default_factory=list)
    """The tags that guided each image."""
    unknown_tags: list[str] = field(default_factory=list)
    """The caller's words that were not used: they match no tag of the model, or there were too many."""


class LinearSRPipeline(ImageWay):
    """LinearSR super-resolution: LR stem, guidance, experts by log-SNR, flow sampler, codec.

    Each call keeps its own state, so several threads may use one pipeline.
    """

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        fidelity: float | None = None,
        tags: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        color_fix: ColourFix | None = None,
        guidance_embeds: Tensor | None = None,
        guidance_mask: Tensor | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        stream: bool | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> LinearSROutput:
        """Upscale one image or several, of any sizes.

        Args:
            image: an `ImageInput`, a tensor (B, C, h, w), or a list of images.
            scale: 1 to 8. If it differs from the model's own scale, the model's result is resized. None: the
                model's own.
            num_inference_steps: number of expert evaluations; 0 takes the trunk's picture, if the model has a
                trunk. None: the model's setting.
            fidelity: 0 to 1. 0 is a full sample, or the trunk's picture, with the most detail; 1 is the
                posterior mean, with the least distortion. Values between lie on the straight line from the
                sample to the mean, the optimal tradeoff between distortion and perception (Freirich et al.
                2021, theorem 3). None: the model's setting, raised the less an image is a photo, so that
                text, charts and pixel art come out clean.
            tags: what is in the images, as "brick wall, ivy" or a list; the same for all of them. They
                replace the tags that the model's tagger finds; with a plus before the first, they are added
                to those. Empty: no tags. None: the model's setting. A model that is not guided by tags
                ignores them with a warning.
            guidance_scale: g in classifier-free guidance v0 + g (v - v0), where v0 uses the null tokens. 1
                needs no second pass; 0 is unguided. None: the model's setting.
            seed: seed of the noise: one for all images, or one per image; None: 0. The result of an image
                does not depend on the other images.
            generator: used instead of `seed`: one for all images, or one per image.
            color_fix: "wavelet" takes low frequencies from the LR image; "none" does not. None: the model's
                setting.
            guidance_embeds, guidance_mask: tokens (B, L, C) and mask (B, L) for the cross-attention, used
                instead of the model's guidance; B is 1 or the number of images.
            output_type: "pil", "np" (float32), "pt" (float32) or "latent". Pillow has 16 bits for grey alone,
                so 16-bit colour becomes 8-bit, with a warning.
            return_dict: True returns a `LinearSROutput`; False a tuple with its `images` alone, as in
                `diffusers`.
            stream: True processes the image in strips of rows, which gives the same result up to rounding in
                little memory. None: only if the whole image does not fit. A whole image that runs out of
                memory is repeated in strips.
            callback_on_step_end: called after every step; it may replace the latents. For a streamed image it
                gets no latents, because they are never whole in memory.

        Raises:
            ImageError: an input cannot be read.
            ValueError: a setting is of the wrong type or out of range, or both seed and generator are given.
            TypeError: a seed is not a whole number.
            RuntimeError: this process was forked from one that had loaded a model; use "spawn" instead.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(
                f"unknown output_type {output_type!r}: choose from {', '.join(get_args(OutputType))}"
            )
        if tags is not None and guidance_embeds is not None:
            raise ValueError("give either tags or guidance_embeds")
        options = self.options(
            scale=scale,
            num_inference_steps=num_inference_steps,
            fidelity=fidelity,
            color_fix=color_fix,
            tags=tags,
            guidance_scale=guidance_scale,
            callback_on_step_end=callback_on_step_end,
            own_guidance=guidance_embeds is None,
        )
        if output_type == "latent" and options.steps == 0:
            raise ValueError("output_type latent: the trunk makes pixels at once: ask for at least one step")
        pictures = [as_picture(item) for item in as_list(image)]
        seeds = seeds_for(len(pictures), seed, generator)
        tokens = tokens_for(len(pictures), guidance_embeds, guidance_mask, self._token_channels)
        output = LinearSROutput([], [], self._unknown(options.tags.words))
        for picture, own_seed, guidance in zip(pictures, seeds, tokens, strict=True):
            asked = replace(options, guidance=guidance)
            if output_type == "latent":
                self.require_memory(*picture.colour.shape[:2])
                lr = self._rows(lr_tensor(picture))
                latents, used = self._latents(lr, [own_seed], self._settled(asked, lr))
                made = latents[0]
            else:
                result = self._upscale(picture, own_seed, asked, stream)
                made, used = from_picture(result, output_type), result.tags
            output.images.append(made)
            output.tags.append(used)
        # the return type names only the default, as in diffusers
        return output if return_dict else cast(LinearSROutput, (output.images,))

    def upscale(
        self,
        picture: Picture,
        *,
        seed: int = 0,
        stream: bool | None = None,
        **settings: "Unpack[Asked]",
    ) -> Picture:
        """Upscale a `Picture` with its alpha, bit depth and metadata.

        The arguments, `settings` included, are those of `__call__`. The result holds the tags that guided it;
        `unknown_tags` returns the caller's words that are not used.
        """
        return self._upscale(picture, seed, self.options(**settings), stream)

    def _upscale(self, picture: Picture, seed: int, options: Options, stream: bool | None = None) -> Picture:
        """Upscale in one piece if that fits in memory, else in strips of rows."""
        lr = self._rows(lr_tensor(picture))
        options = self._settled(options, lr)
        if stream is None:
            stream = not self.fits(*lr.own_size, options.scale)
        colours, tags = None, tuple[str, ...]()
        if not stream:
            try:
                colours, tags = self._colours(lr, [seed], options)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
        if colours is None:
            # after the handler: inside it, the exception still holds the tensors of the failed attempt
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            colours, tags = self._colours(lr, [seed], options, strip_rows_for(lr.own_size[1], self.device))
        return self._result(picture, colours[0], tags, options)

    def upscale_together(
        self, pictures: Sequence[Picture], seeds: Sequence[int], options: Options
    ) -> list[Picture]:
        """Upscale pictures of one size as a batch, in one piece; for small pictures this is faster on a GPU.

        Each result equals that of the picture alone, up to rounding, which may depend on how many there are.

        Args:
            seeds: seeds of the noise, one per picture.
            options: the settings for all of them, from `self.options`. Pictures that end up with the same
                fidelity form a batch, and the callback gets the latents of one batch at a time.

        Raises:
            ValueError: pictures of several sizes, guidance (each picture has its own), or too little memory.
        """
        (width, height), *others = {picture.size for picture in pictures}
        if others:
            raise ValueError("pictures of several sizes cannot be upscaled together")
        if options.guidance_scale > 0 and (options.guidance or self.guidance) is not None:
            raise ValueError("pictures that are guided cannot be upscaled together")
        needed = len(pictures) * self.estimate_memory(height, width, scale=options.scale)
        require_memory(needed, self.device, f"{len(pictures)} images of {width}x{height}")
        lrs = [lr_tensor(picture) for picture in pictures]
        alike: dict[Options, list[int]] = defaultdict(list)
        for place, lr in enumerate(map(self._rows, lrs)):
            alike[self._settled(options, lr)].append(place)
        results: dict[int, Picture] = {}
        for settled, places in alike.items():
            group = self._rows(torch.cat([lrs[i] for i in places]))
            colours, tags = self._colours(group, [seeds[i] for i in places], settled)
            for i, colour in zip(places, colours, strict=True):
                results[i] = self._result(pictures[i], colour, tags, options)
        return [results[place] for place in range(len(pictures))]

    def upscale_rows(
        self,
        reader: RowReader,
        writer: RowWriter,
        *,
        seed: int = 0,
        work_folder: Path | None = None,
        strip_rows: int | None = None,
        progress: Progress | None = None,
        **settings: "Unpack[Asked]",
    ) -> tuple[str, ...]:
        """Upscale rows into rows in the memory of a strip, with the result of `upscale` to float rounding.

        Args:
            reader: the LR picture, which is read from top to bottom a few times.
            writer: takes the result from top to bottom, once.
            work_folder: where data waits between passes. None: in memory if there is room, else a temporary
                folder.
            strip_rows: LR rows per strip; None: chosen by the width.
            progress: called after every strip.
            settings: as for `upscale`.

        Returns:
            The tags that guided the picture.

        Raises:
            ValueError: a setting is out of range, or there is too little room on the disk.
        """
        lr = LRRows(rows_of(reader), (reader.height, reader.width), self.multiple_of, self.device)
        options = self._settled(self.options(**settings), lr)
        strip = strip_rows or strip_rows_for(lr.width, self.device)
        needed = buffer_bytes(self, lr.height, lr.width, len(self.steps(options)))
        with work_of(needed, self._strip(strip), work_folder, progress) as work:
            return self._run(lr, [seed], options, work, lambda rows: writer.write(rows[0]))

    def estimate_memory(self, height: int, width: int, *, scale: float | None = None) -> int:
        """Estimate the peak bytes for a whole LR image, without weights; `scale` None: the model's own."""
        return whole_bytes(self, height, width, scale)

    def fits(self, height: int, width: int, scale: float | None = None) -> bool:
        """Return whether the free memory of the device holds an LR image of this size in one piece."""
        return fits_whole(self.estimate_memory(height, width, scale=scale), self.device)

    def require_memory(self, height: int, width: int) -> None:
        """Raises ValueError if the device lacks the memory for an LR image of this size in one piece."""
        require_memory(self.estimate_memory(height, width), self.device, f"an image of {width}x{height}")

    def _result(
        self, picture: Picture, colour: FloatArray, tags: tuple[str, ...], options: Options
    ) -> Picture:
        """Put new colour (H, W, 3) into a picture, grey if it was grey, with its alpha at that size."""
        if picture.colour.shape[2] == 1:
            colour = colour.mean(axis=2, keepdims=True)
        alpha = picture.alpha
        if alpha is not None:
            alpha = self._upscaled_alpha(alpha, colour.shape[:2], options)
        return replace(picture, colour=np.ascontiguousarray(colour), alpha=alpha, tags=tags)

    def _upscaled_alpha(self, alpha: FloatArray, size: tuple[int, int], options: Options) -> FloatArray:
        """Upscale alpha (h, w), as a grey image, to `size` (height, width)."""
        if alpha.min() == alpha.max():
            return np.full(size, alpha[0, 0])
        own = replace(options, scale=float(self.scale), fidelity=1.0, drawing=0.0, callback=None)
        drawn = self._upscale(Picture(alpha[..., None]), 0, own).colour[..., 0]
        return resize_alpha(checked_alpha(drawn, alpha), size)
