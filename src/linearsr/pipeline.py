"""An image's way through LinearSR, from top to bottom.

Shape legend: B batch, h w LR size, H W HR size at the model's own scale. Inside, images have values in [-1, 1].
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from math import gcd, lcm
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from linearsr.checkpoints import CheckpointError, resolve_folder
from linearsr.devices import best_device, best_dtype, physical_memory
from linearsr.flow.experts import Residency, SNRExperts
from linearsr.flow.path import PredictionType, to_velocity
from linearsr.flow.sampler import Solver, initial_noise, sample, timesteps
from linearsr.images.alpha import fill_transparent, resize_alpha
from linearsr.images.colour import adain_colour_fix, wavelet_colour_fix
from linearsr.images.convert import ImageInput, OutputType, as_list, as_picture, from_picture
from linearsr.images.io import Picture
from linearsr.images.resize import resize
from linearsr.model_folder import (
    MODEL_INDEX,
    ModelParts,
    default_model_folder,
    load_parts,
    read_index,
    save_parts,
)
from linearsr.models.codec import Codec, pad_to_multiple
from linearsr.models.lr_stem import LRCondition, LRStem

ColourFix = Literal["none", "wavelet", "adain"]
StepCallback = Callable[["LinearSRPipeline", int, float, dict[str, Tensor]], dict[str, Tensor] | None]
"""(pipeline, step index, time reached in [0, 1], {"latents": ...}) -> {"latents": replacement} or None."""

_COLOUR_FIXES = {"wavelet": wavelet_colour_fix, "adain": adain_colour_fix}
_SCALES = (1.0, 8.0)
_BYTES_PER_PIXEL = 150
"""Peak memory per pixel at the model's own scale: the default model takes 115 in bfloat16 and 148 in float32."""


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of a model that are not weights; the call can override the first three."""

    num_inference_steps: int = 4
    """Network evaluations (NFE)."""
    fidelity: float = 0.0
    """0: a full sample of the flow; 1: the posterior mean."""
    color_fix: ColourFix = "none"
    solver: Solver = "dpmsolver++"
    flow_shift: float = 1.0
    """Shift of the times towards noise."""
    sigmas: tuple[float, ...] | None = None
    """Noise levels at which the steps start, falling from 1, for just this number of steps; None: shifted uniform."""
    name: str = "LinearSR"
    """How the model is called in reports."""

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(f"solver {self.solver!r} is not one of {', '.join(get_args(Solver))}")
        if self.sigmas is not None and (
            self.sigmas[:1] != (1.0,) or any(s <= t for s, t in pairwise((*self.sigmas, 0.0)))
        ):
            raise ValueError(f"sigmas {self.sigmas} must fall strictly from 1 and stay above 0")

    @classmethod
    def from_index(cls, index: Mapping[str, Any]) -> "PipelineConfig":
        """The settings among the entries of a `model_index.json`. Raises ValueError for one that makes no sense."""
        known = {field.name for field in fields(cls)}
        entries: dict[str, Any] = {key: value for key, value in index.items() if key in known}
        if isinstance(entries.get("sigmas"), list):
            entries["sigmas"] = tuple(entries["sigmas"])
        return cls(**entries)


@dataclass(frozen=True)
class Options:
    """What one call asks for; see `LinearSRPipeline.__call__`. Raises ValueError for a setting out of its range."""

    scale: float
    steps: int
    fidelity: float
    color_fix: ColourFix
    guidance_scale: float = 1.0
    guidance: tuple[Tensor, Tensor | None] | None = None
    callback: StepCallback | None = None

    def __post_init__(self) -> None:
        low, high = _SCALES
        if not low <= self.scale <= high:
            raise ValueError(f"scale {self.scale:g} is out of range: choose from {low:g} to {high:g}")
        if self.steps < 1:
            raise ValueError(f"{self.steps} steps: at least 1 is needed")
        if not 0 <= self.fidelity <= 1:
            raise ValueError(f"fidelity {self.fidelity:g} is out of range: choose from 0 to 1")
        if self.color_fix not in get_args(ColourFix):
            raise ValueError(
                f"unknown color fix {self.color_fix!r}: choose from {', '.join(get_args(ColourFix))}"
            )
        if self.guidance_scale != 1 and self.guidance is None:
            raise ValueError("a guidance scale needs guidance tokens: give guidance_embeds too")


@dataclass(frozen=True)
class LinearSROutput:
    """Upscaled images in the order of the inputs."""

    images: list[Any]
    """PIL images, arrays (H, W, C) in [0, 1], tensors (C, H, W) in [0, 1], or latents (C, h', w')."""


class LinearSRPipeline:
    """LinearSR super-resolution: LR stem, experts by log-SNR, flow sampler, codec.

    Calls share nothing that they change, so one pipeline may serve several threads.

    Args:
        lr_stem: tells the network about the LR image.
        transformer: one or several experts.
        codec: between latents and pixels.
        config: the model's default settings.
    """

    def __init__(
        self,
        lr_stem: LRStem,
        transformer: SNRExperts,
        codec: Codec,
        config: PipelineConfig | None = None,
    ) -> None:
        self.lr_stem, self.transformer, self.codec = lr_stem, transformer, codec
        self.config = config or PipelineConfig()

    # loading and saving

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
        residency: Residency = "all",
    ) -> "LinearSRPipeline":
        """Load a model.

        Args:
            model: a folder, or a hub id such as "owner/name"; None is the default model inside the package.
            torch_dtype: type of the weights; None takes bfloat16 where the device computes in it, else float32.
            device: "auto" takes CUDA where there is one, else the CPU.
            residency: which experts are kept on the device: "all"; "active" keeps the others on the CPU; "lazy"
                reads each from disk when its span begins.

        Raises:
            CheckpointError: the folder is no LinearSR model, or its weights are damaged or pickled.
        """
        folder = resolve_folder(model) if model is not None else default_model_folder()
        place = best_device() if device == "auto" else torch.device(device)
        index = read_index(folder)
        parts = load_parts(folder, index, torch_dtype or best_dtype(place), place, residency)
        try:
            config = PipelineConfig.from_index(index)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / MODEL_INDEX}: {error}") from None
        return cls(*parts, config)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write `model_index.json` and one folder a part; `from_pretrained` reads it back."""
        parts = ModelParts(self.lr_stem, self.transformer, self.codec)
        save_parts(Path(folder), parts, {"_class_name": type(self).__name__, **asdict(self.config)}, dtype)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the hub; returns the address of the commit."""
        from tempfile import TemporaryDirectory

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder).commit_url)

    def to(self, *args: Any, **kwargs: Any) -> "LinearSRPipeline":
        """Move or convert all parts; arguments as for `torch.nn.Module.to`."""
        self.lr_stem.to(*args, **kwargs)
        self.transformer.to(*args, **kwargs)
        self.codec.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        """Where the LR stem lies."""
        return next(self.lr_stem.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the stem's weights are kept."""
        return next(self.lr_stem.parameters()).dtype

    @property
    def scale(self) -> int:
        """The model's own scale, HR size over LR size."""
        return self.lr_stem.config.scale

    @property
    def multiple_of(self) -> int:
        """LR sides are padded to a multiple of this, and the result is cropped back."""
        hr_multiple = self.codec.compression * int(self.transformer.config.patch_size)
        return lcm(self.lr_stem.multiple_of, hr_multiple // gcd(hr_multiple, self.scale))

    # an image's way

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        *,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        fidelity: float | None = None,
        guidance_scale: float = 1.0,
        seed: int | Sequence[int] = 0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        color_fix: ColourFix | None = None,
        guidance_embeds: Tensor | None = None,
        guidance_mask: Tensor | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepCallback | None = None,
    ) -> LinearSROutput:
        """Upscale one image or several of any sizes.

        Args:
            image: a path, PIL image, array (h, w) or (h, w, C) (uint8, uint16, or float in [0, 1]), tensor (C, h, w) or
                (B, C, h, w) in [0, 1], or a list of them.
            scale: 1 to 8; the model's own result is resized where it differs. Default: the model's own.
            num_inference_steps: network evaluations; None takes the model's setting, as for the next.
            fidelity: from 0, a full sample with the most detail, to 1, the posterior mean with the least distortion.
                In between, the point on the straight line from the mean to the sample, the optimal tradeoff between
                distortion and perception (Freirich et al. 2021, theorem 3).
            guidance_scale: classifier-free guidance v0 + g (v - v0) over the null tokens; 1 costs no second pass.
            seed: of the noise; one for all images, or one for each. A result does not depend on its neighbours.
            generator: takes the place of `seed`: one for all images, or one for each.
            color_fix: takes low frequencies ("wavelet") or mean and deviation ("adain") from the LR image.
            guidance_embeds, guidance_mask: tokens (1, L, C) and mask (1, L) for the cross-attention; None uses the
                network's learned null tokens.
            output_type: "pil", "np" (float32), "pt" (float32) or "latent".
            callback_on_step_end: called after every step; may replace the latents.

        Raises:
            ImageError: an input that cannot be read.
            ValueError: a setting out of its range.
        """
        if output_type not in get_args(OutputType):
            raise ValueError(
                f"unknown output_type {output_type!r}: choose from {', '.join(get_args(OutputType))}"
            )
        options = Options(
            *self._settings(scale, num_inference_steps, fidelity, color_fix),
            guidance_scale,
            (guidance_embeds, guidance_mask) if guidance_embeds is not None else None,
            callback_on_step_end,
        )
        pictures = [as_picture(item) for item in as_list(image)]
        seeds = _seeds(seed, generator, len(pictures))
        if output_type == "latent":
            return LinearSROutput(
                [self._latent(p, s, options)[0][0] for p, s in zip(pictures, seeds, strict=True)]
            )
        return LinearSROutput(
            [
                from_picture(self._upscale(p, s, options), output_type)
                for p, s in zip(pictures, seeds, strict=True)
            ]
        )

    def upscale(
        self,
        picture: Picture,
        *,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        fidelity: float | None = None,
        seed: int = 0,
        color_fix: ColourFix | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Picture:
        """Upscale a `Picture` with its alpha, bit depth and metadata; arguments as for the call."""
        settings = self._settings(scale, num_inference_steps, fidelity, color_fix)
        return self._upscale(picture, seed, Options(*settings, callback=callback_on_step_end))

    def _settings(
        self, scale: float | None, steps: int | None, fidelity: float | None, color_fix: ColourFix | None
    ) -> tuple[float, int, float, ColourFix]:
        """What the caller left open is taken from the model's own settings."""
        return (
            float(self.scale) if scale is None else scale,
            self.config.num_inference_steps if steps is None else steps,
            self.config.fidelity if fidelity is None else fidelity,
            self.config.color_fix if color_fix is None else color_fix,
        )

    @torch.inference_mode()
    def _upscale(self, picture: Picture, seed: int, options: Options) -> Picture:
        latent, condition, lr = self._latent(picture, seed, options)
        hr = self.codec.decode(latent, condition)
        height, width = picture.colour.shape[:2]
        hr = (hr.float()[..., : height * self.scale, : width * self.scale] + 1) / 2
        if options.color_fix != "none":
            reference = resize((lr + 1) / 2, (hr.shape[-2], hr.shape[-1]), "bicubic")
            hr = _COLOUR_FIXES[options.color_fix](hr, reference)
        size = (max(1, round(height * options.scale)), max(1, round(width * options.scale)))
        if tuple(hr.shape[-2:]) != size:
            hr = resize(hr, size, "lanczos")
        colour = hr[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        if picture.colour.shape[2] == 1:
            colour = colour.mean(axis=2, keepdims=True)
        alpha = resize_alpha(picture.alpha, size) if picture.alpha is not None else None
        return replace(picture, colour=np.ascontiguousarray(colour), alpha=alpha)

    @torch.inference_mode()
    def _latent(self, picture: Picture, seed: int, options: Options) -> tuple[Tensor, LRCondition, Tensor]:
        """The latent (1, C, h', w') of one picture, with the condition and the LR image (1, 3, h, w) it came from."""
        self._require_memory(*picture.size)
        colour = picture.colour
        if picture.alpha is not None:
            colour = fill_transparent(colour, picture.alpha)
        rgb = np.broadcast_to(colour, (*colour.shape[:2], 3))
        lr = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].to(self.device) * 2 - 1
        condition: LRCondition = self.lr_stem(pad_to_multiple(lr, self.multiple_of))
        grid = condition.features.shape[-2:]
        noise = initial_noise((1, self.codec.latent_channels, *grid), seed, device=self.device)
        return self._walk(noise, condition, options), condition, lr

    def _require_memory(self, width: int, height: int) -> None:
        """Refuse an image that would only end in the process being killed."""
        needed = width * height * self.scale**2 * _BYTES_PER_PIXEL
        memory = physical_memory(self.device)
        if memory is not None and needed > memory:
            raise ValueError(
                f"an image of {width}x{height} needs about {needed / 1e9:.0f} GB of memory and there are "
                f"{memory / 1e9:.0f} GB: make it smaller or cut it into parts"
            )

    def _walk(self, noise: Tensor, condition: LRCondition, options: Options) -> Tensor:
        """From noise at t = 1 to a latent at t = 0, one expert evaluation a step."""
        if self.config.sigmas is not None and len(self.config.sigmas) == options.steps:
            times = [*self.config.sigmas, 0.0]
        else:
            times = timesteps(options.steps, self.config.flow_shift)
        if options.fidelity == 1:
            times = times[:2]  # the mean is the first step's estimate: no other step is needed
        mean = noise

        def velocity(z: Tensor, t: float) -> Tensor:
            return self._velocity(z, t, condition, options)

        def on_step(step: int, t: float, z: Tensor, x0: Tensor) -> Tensor | None:
            nonlocal mean
            if step == 0:
                mean = x0
            if options.callback is None:
                return None
            return (options.callback(self, step, t, {"latents": z}) or {}).get("latents")

        latent = sample(velocity, noise, times, self.config.solver, on_step)
        return torch.lerp(latent, mean, options.fidelity)

    def _velocity(self, z: Tensor, t: float, condition: LRCondition, options: Options) -> Tensor:
        def evaluate(tokens: Tensor | None, mask: Tensor | None) -> Tensor:
            prediction = self.transformer(
                z.to(self.dtype),
                1000 * t,
                lr_features=condition.features,
                encoder_hidden_states=tokens,
                encoder_attention_mask=mask,
            )
            return to_velocity(prediction.float(), z, t, self.prediction_type)

        if options.guidance is None:
            return evaluate(None, None)
        tokens, mask = options.guidance
        guided = evaluate(tokens.to(z.device, self.dtype), None if mask is None else mask.to(z.device))
        if options.guidance_scale == 1:
            return guided
        plain = evaluate(None, None)
        return plain + options.guidance_scale * (guided - plain)

    @property
    def prediction_type(self) -> PredictionType:
        """What the experts' output means."""
        value: PredictionType = self.transformer.config.prediction_type
        return value


def _seeds(
    seed: int | Sequence[int], generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> list[int]:
    if generator is not None:
        generators = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
        values = [int(torch.randint(2**62, (), generator=g, device=g.device)) for g in generators]
    else:
        values = list(seed) if isinstance(seed, Sequence) else [int(seed)] * count
    if len(values) != count:
        raise ValueError(f"{len(values)} seeds or generators for {count} images: give one, or one for each")
    return values
