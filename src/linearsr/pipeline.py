"""An image's way through LinearSR, from top to bottom.

Shape legend: B batch, h w LR size, H W HR size at the model's own scale. Inside, images have values in [-1, 1].
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.flow.path import to_velocity
from linearsr.flow.sampler import initial_noise, sample
from linearsr.guidance.base import GuidanceTokens
from linearsr.images.alpha import checked_alpha, resize_alpha
from linearsr.images.colour import adain_colour_fix, to_unit, wavelet_colour_fix
from linearsr.images.convert import ImageInput, OutputType, as_list, as_picture, from_picture, lr_tensor
from linearsr.images.graphics import squares_where_lost
from linearsr.images.io import Picture
from linearsr.images.picture import FloatArray
from linearsr.images.resize import resize, scaled_size
from linearsr.model import LinearSRModel
from linearsr.models.codec import pad_to_multiple
from linearsr.models.lr_stem import LRCondition
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.devices import is_out_of_memory, require_memory
from linearsr.settings import ColourFix, Options, PipelineConfig, StepCallback, seeds_for, tokens_for
from linearsr.streaming.memory import fits_whole, strip_bytes, whole_bytes
from linearsr.streaming.source import ArrayReader, ArrayWriter
from linearsr.streaming.upscale import stream as stream_rows

__all__ = ["ColourFix", "LinearSROutput", "LinearSRPipeline", "PipelineConfig", "StepCallback"]


@dataclass(frozen=True)
class LinearSROutput:
    """Upscaled images in the order of the inputs."""

    images: list[Any]
    """PIL images, arrays (H, W, C) in [0, 1], tensors (C, H, W) in [0, 1], or latents (C, h', w')."""
    tags: list[tuple[str, ...]] = field(default_factory=list)
    """The tags that guided each image."""
    unknown_tags: list[str] = field(default_factory=list)
    """Words of the caller's that were not used: they mean no tag that the model knows, or there were too many."""


class _Sampled(NamedTuple):
    """The latents (B, C, h', w') of pictures of one size, and what they were made from."""

    latent: Tensor
    condition: LRCondition
    lr: Tensor
    """(B, 3, h, w)"""
    tags: tuple[str, ...]


class LinearSRPipeline(LinearSRModel):
    """LinearSR super-resolution: LR stem, guidance, experts by log-SNR, flow sampler, codec.

    Calls share nothing that they change, so one pipeline may serve several threads.
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
        """Upscale one image or several of any sizes.

        Args:
            image: a path, the bytes of a file, a file opened in binary mode, PIL image, array (h, w) or (h, w, C)
                (uint8, uint16, bool, or float in [0, 1]), tensor (C, h, w) or (B, C, h, w) in [0, 1], or a list of
                them.
            scale: 1 to 8; the model's own result is resized where it differs. Default: the model's own.
            num_inference_steps: evaluations of the experts; 0 takes the trunk's picture, where the model has a trunk;
                None takes the model's setting, as for the next, or its `clean_steps` for an image that is clean.
            fidelity: from 0, a full sample or the trunk's picture, with the most detail, to 1, the posterior mean with
                the least distortion.
                In between, the point on the straight line from the mean to the sample, the optimal tradeoff between
                distortion and perception (Freirich et al. 2021, theorem 3). None: the model's setting, and more the
                less an image is a photo: text, charts and pixel art come out clean.
            tags: what is in the images, "brick wall, ivy" or a list, for all of them, in the place of what the model's
                tagger finds; with a plus before the first, beside it. Empty: no tags. None: the model's own way. A
                model that does not listen to tags warns of them.
            guidance_scale: classifier-free guidance v0 + g (v - v0) over the null tokens; 1 costs no second pass; 0 is
                not guided.
            seed: of the noise; one for all images, or one for each; None: 0. A result does not depend on its
                neighbours.
            generator: in the place of `seed`: one for all images, or one for each.
            color_fix: takes low frequencies ("wavelet") or mean and deviation ("adain") from the LR image.
            guidance_embeds, guidance_mask: tokens (B, L, C) and mask (B, L) for the cross-attention, in the place of
                the model's guidance; B is one, or the number of images.
            output_type: "pil" (16 bits for grey alone, as Pillow has no 16-bit colour: that becomes 8-bit, with a
                warning), "np" (float32), "pt" (float32) or "latent".
            return_dict: whether to return a `LinearSROutput`, or, as in `diffusers`, a tuple with its `images` alone.
            stream: whether to go through the image in strips of rows, which gives the same result to rounding in little
                memory. None: where the image in one piece would not fit, or did not.
            callback_on_step_end: called after every step; may replace the latents. Those of a streamed image are never
                whole, and it gets none.

        Raises:
            ImageError: an input that cannot be read.
            ValueError: a setting of another type or out of its range, or both seed and generator.
            RuntimeError: this process was forked from one that had loaded a model: use "spawn".
        """
        if output_type not in get_args(OutputType):
            raise ValueError(
                f"unknown output_type {output_type!r}: choose from {', '.join(get_args(OutputType))}"
            )
        if tags is not None and guidance_embeds is not None:
            raise ValueError("give either tags or guidance_embeds")
        if guidance_embeds is None:
            self._check_scale(guidance_scale)
        asked = self.options(
            scale=scale,
            num_inference_steps=num_inference_steps,
            fidelity=fidelity,
            color_fix=color_fix,
            tags=tags,
            guidance_scale=guidance_scale,
            callback_on_step_end=callback_on_step_end,
        )
        unknown = self._unknown(asked.tags.words)
        pictures = [as_picture(item) for item in as_list(image)]
        seeds = seeds_for(len(pictures), seed, generator)
        tokens = tokens_for(len(pictures), guidance_embeds, guidance_mask, self._token_channels)
        jobs = [(p, s, replace(asked, guidance=g)) for p, s, g in zip(pictures, seeds, tokens, strict=True)]
        if output_type == "latent":
            for picture in pictures:
                self.require_memory(*picture.colour.shape[:2])
            lrs = [lr_tensor(picture) for picture in pictures]
            if asked.steps == 0:
                raise ValueError(
                    "output_type latent: the trunk makes pixels at once: ask for at least one step"
                )
            sampled = [
                self._sample(lr, [s], self._suited(o, lr)) for lr, (_, s, o) in zip(lrs, jobs, strict=True)
            ]
            output = LinearSROutput([s.latent[0] for s in sampled], [s.tags for s in sampled], unknown)
        else:
            results = [self._upscale(*job, stream=stream) for job in jobs]
            images = [from_picture(result, output_type) for result in results]
            output = LinearSROutput(images, [result.tags for result in results], unknown)
        # as in diffusers, where the type is that of the default
        return output if return_dict else cast(LinearSROutput, (output.images,))

    def upscale(
        self,
        picture: Picture,
        *,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        fidelity: float | None = None,
        tags: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        color_fix: ColourFix | None = None,
        stream: bool | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Picture:
        """Upscale a `Picture` with its alpha, bit depth and metadata; arguments as for the call.

        The result has the tags that guided it. `unknown_tags` says which of the caller's did not.
        """
        self._check_scale(guidance_scale)
        options = self.options(
            scale=scale,
            num_inference_steps=num_inference_steps,
            fidelity=fidelity,
            color_fix=color_fix,
            tags=tags,
            guidance_scale=guidance_scale,
            callback_on_step_end=callback_on_step_end,
        )
        return self._upscale(picture, seed, options, stream)

    def upscale_together(
        self, pictures: Sequence[Picture], seeds: Sequence[int], options: Options
    ) -> list[Picture]:
        """Upscale pictures of one size in one go, in the whole: where they are small, a GPU does that faster.

        Each result is that of the picture alone but for rounding, which may depend on how many there are.

        Args:
            seeds: of the noise, one for each.
            options: what is asked for all of them, as `self.options` gives it. The callback gets the latents of those
                that take the same steps, and their "places" in `pictures`.

        Raises:
            ValueError: pictures of several sizes, guidance, which is each picture's own, or too little memory.
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
        for place, lr in enumerate(lrs):
            alike[self._suited(options, lr)].append(place)
        results: dict[int, Picture] = {}
        for settled, places in alike.items():
            told = replace(settled, callback=settled.callback and _of_places(settled.callback, places))
            group = torch.cat([lrs[i] for i in places])
            made = self._upscale_whole([pictures[i] for i in places], group, [seeds[i] for i in places], told)
            results |= zip(places, made, strict=True)
        return [results[place] for place in range(len(pictures))]

    def estimate_memory(
        self, height: int, width: int, *, scale: float | None = None, streamed: bool = False
    ) -> int:
        """Peak bytes for an LR image of that size, without the weights: in one piece, or by strips.

        Args:
            scale: of a result in one piece; None: the model's own.
        """
        return strip_bytes(self, width) if streamed else whole_bytes(self, height, width, scale)

    def fits(self, height: int, width: int, scale: float | None = None) -> bool:
        """Whether the device has the memory now for an LR image of that size in one piece; `scale` as above."""
        return fits_whole(self.estimate_memory(height, width, scale=scale), self.device)

    def require_memory(self, height: int, width: int) -> None:
        """Raises ValueError for an LR image of a size for which the device has not the memory in one piece."""
        require_memory(self.estimate_memory(height, width), self.device, f"an image of {width}x{height}")

    def unknown_tags(self, tags: str | Sequence[str] | None) -> list[str]:
        """The words among a caller's tags that mean none that the model knows, or are too many for it."""
        return self._unknown(self._tag_request(tags).words)

    def _unknown(self, words: Sequence[str]) -> list[str]:
        return self.guidance.understand(words).unknown if self.guidance is not None and words else []

    def _check_scale(self, guidance_scale: float | None) -> None:
        if guidance_scale not in (None, 1) and self.guidance is None:
            raise ValueError(f"the model {self.config.name} has no guidance to scale: give guidance_embeds")

    def _suited(self, options: Options, lr: Tensor) -> Options:
        return self.settled(options, lambda top, bottom: lr[:, :, top:bottom], (lr.shape[2], lr.shape[3]))

    def _upscale(self, picture: Picture, seed: int, options: Options, stream: bool | None = None) -> Picture:
        width, height = picture.size
        if stream is None:
            stream = not self.fits(height, width, options.scale)
        lr = lr_tensor(picture)
        if not stream:
            try:
                return self._upscale_whole([picture], lr, [seed], self._suited(options, lr))[0]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # behind the handler, where the error no longer holds on to what was in memory
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return self._upscale_by_rows(picture, lr, seed, options)

    @torch.inference_mode()
    def _upscale_whole(
        self, pictures: Sequence[Picture], lr: Tensor, seeds: Sequence[int], options: Options
    ) -> list[Picture]:
        """Results for pictures of one size, whose `lr_tensor` are `lr` (B, 3, h, w)."""
        lr = lr.to(self.device)
        tags: tuple[str, ...] = ()
        if options.steps == 0:
            hr = self._draw(lr, options.fidelity)
        else:
            latent, condition, _, tags = self._sample(lr, seeds, options)
            hr = self.codec.decode(latent, condition)
        height, width = lr.shape[-2:]
        hr = (hr.float()[..., : height * self.scale, : width * self.scale] + 1) / 2
        if options.color_fix == "wavelet":
            hr = wavelet_colour_fix(hr, (lr + 1) / 2)
        elif options.color_fix == "adain":
            hr = adain_colour_fix(hr, resize((lr + 1) / 2, (hr.shape[-2], hr.shape[-1]), "bicubic"))
        size = scaled_size(height, width, options.scale)
        if options.drawing:
            hr = squares_where_lost(hr, (lr + 1) / 2, options.drawing)
        if tuple(hr.shape[-2:]) != size:
            hr = resize(hr, size, "lanczos")
        colours = to_unit(hr).permute(0, 2, 3, 1).cpu().numpy()
        return [
            self._result(picture, colour, tags, options)
            for picture, colour in zip(pictures, colours, strict=True)
        ]

    def _upscale_by_rows(self, picture: Picture, lr: Tensor, seed: int, options: Options) -> Picture:
        writer = ArrayWriter(*scaled_size(picture.colour.shape[0], picture.colour.shape[1], options.scale))
        tags = stream_rows(self, ArrayReader(lr), writer, options, seed)
        return self._result(picture, writer.array, tags, options)

    def _result(
        self, picture: Picture, colour: NDArray[np.float32], tags: tuple[str, ...], options: Options
    ) -> Picture:
        """The result: new colour (H, W, 3) for a picture, grey where it was grey, and its alpha at that size."""
        if picture.colour.shape[2] == 1:
            colour = colour.mean(axis=2, keepdims=True)
        alpha = picture.alpha
        if alpha is not None:
            alpha = self._upscaled_alpha(alpha, colour.shape[:2], options)
        return replace(picture, colour=np.ascontiguousarray(colour), alpha=alpha, tags=tags)

    def _upscaled_alpha(self, alpha: FloatArray, size: tuple[int, int], options: Options) -> FloatArray:
        """Alpha (h, w) as a grey image, at `size` (height, width)."""
        if alpha.min() == alpha.max():
            return np.full(size, alpha[0, 0])
        own = replace(options, scale=float(self.scale), fidelity=1.0, drawing=0.0, callback=None)
        drawn = self._upscale(Picture(alpha[..., None]), 0, own).colour[..., 0]
        return resize_alpha(checked_alpha(drawn, alpha), size)

    def _draw(self, lr: Tensor, fidelity: float) -> Tensor:
        """The HR images of LR images (B, 3, h, w) without a step: on the line from the trunk's to the stem's."""
        padded = pad_to_multiple(lr, self.multiple_of)
        drawn = None if fidelity == 1 else cast(RRDBNet, self.trunk)(padded)
        mean = None if fidelity == 0 else self.lr_stem(padded).prediction
        if drawn is None or mean is None:
            return cast(Tensor, mean if drawn is None else drawn)
        return torch.lerp(drawn, mean, fidelity)

    @torch.inference_mode()
    def _sample(self, lr: Tensor, seeds: Sequence[int], options: Options) -> _Sampled:
        """The latents of LR images (B, 3, h, w), what they were made from, and the tags that guided them."""
        lr = lr.to(self.device)
        condition: LRCondition = self.lr_stem(pad_to_multiple(lr, self.multiple_of))
        tokens, tags = self.guide(lambda: lr, options)
        grid = condition.features.shape[-2:]
        shape = len(lr), self.codec.latent_channels, *grid
        noise = initial_noise(shape, seeds, device=self.device)
        return _Sampled(self._walk(noise, condition, tokens, options), condition, lr, tags)

    def _walk(
        self, noise: Tensor, condition: LRCondition, tokens: GuidanceTokens | None, options: Options
    ) -> Tensor:
        """From noise at t = 1 to a latent at t = 0, one expert evaluation a step."""
        times = self.times(options)
        # the residual codec's zero: nothing to add to the stem's prediction
        mean = torch.zeros_like(noise)
        from_stem = self.config.mean == "stem"
        if len(times) == 1:
            return mean

        def velocity(z: Tensor, t: float) -> Tensor:
            return self._velocity(z, t, condition, tokens, options.guidance_scale)

        def on_step(step: int, t: float, z: Tensor, x0: Tensor) -> Tensor | None:
            nonlocal mean
            if step == 0 and not from_stem:
                mean = x0
            if options.callback is None:
                return None
            state = {"latents": z, "steps": len(times) - 1}
            return (options.callback(self, step, t, state) or {}).get("latents")

        latent = sample(velocity, noise, times, self.config.solver, on_step)
        return torch.lerp(latent, mean, options.fidelity)

    def _velocity(
        self,
        z: Tensor,
        t: float,
        condition: LRCondition,
        tokens: GuidanceTokens | None,
        guidance_scale: float,
    ) -> Tensor:
        def evaluate(guidance: GuidanceTokens | None) -> Tensor:
            embeds, mask = guidance or (None, None)
            prediction = self.transformer(
                z.to(self.dtype),
                1000 * t,
                lr_features=condition.features,
                encoder_hidden_states=None if embeds is None else embeds.to(z.device, self.dtype),
                encoder_attention_mask=None if mask is None else mask.to(z.device),
            )
            # one layout for all that the sampler computes with: another is rounded in another way
            return to_velocity(prediction.float().contiguous(), z, t, self.prediction_type)

        guided = evaluate(tokens)
        if tokens is None or guidance_scale == 1:
            return guided
        return torch.lerp(evaluate(None), guided, guidance_scale)


def _of_places(callback: StepCallback, places: list[int]) -> StepCallback:
    def tell(pipe: Any, step: int, time: float, state: dict[str, Any]) -> dict[str, Tensor] | None:
        return callback(pipe, step, time, {**state, "places": places})

    return tell
