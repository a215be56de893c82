"""A model in memory: its parts, where they lie, how they are loaded and saved, and what one call asks of them."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from linearsr.flow.experts import Residency, SNRExperts
from linearsr.flow.sampler import Step, plan
from linearsr.guidance.base import Guidance, GuidanceTokens, Tagger
from linearsr.guidance.guide import IGNORES_TAGS, TagRequest, guide
from linearsr.images.graphics import likeness_to_drawing
from linearsr.model_folder import (
    MODEL_INDEX,
    ModelParts,
    default_model_folder,
    load_parts,
    load_ranges,
    read_index,
    save_parts,
    save_ranges,
    upload,
)
from linearsr.models import int8
from linearsr.models.codec import Codec, ResidualCodec
from linearsr.models.lr_stem import LRStem, PredictiveStem, middle, middle_of
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.checkpoints import CheckpointError, resolve_folder
from linearsr.runtime.devices import best_device, best_dtype, require_own_threads
from linearsr.settings import ColourFix, Options, PipelineConfig, StepCallback

_Model = TypeVar("_Model", bound="LinearSRModel")


class LinearSRModel:
    """LR stem, experts, codec and guidance that belong together.

    Args:
        lr_stem: tells the network about the LR image.
        transformer: one or several experts.
        codec: between latents and pixels.
        config: the model's default settings.
        guidance: what the network is told beside the LR image; None: nothing.
        tagger: finds tags for a guidance that uses them.
        trunk: draws the picture where no step is taken; the stem must predict one too, the mean.

    Raises:
        ValueError: no steps by default without a trunk, a trunk of another scale, a stem and a codec of other grids,
            guidance whose tokens are not as wide as the network takes them, a mean of the stem with a codec that does
            not start from it, steps for clean images with a stem that does not know them, or `use_tags` without a
            tagger.
    """

    def __init__(
        self,
        lr_stem: LRStem,
        transformer: SNRExperts,
        codec: Codec,
        config: PipelineConfig | None = None,
        guidance: Guidance | None = None,
        tagger: Tagger | None = None,
        trunk: RRDBNet | None = None,
    ) -> None:
        self.lr_stem, self.transformer, self.codec = lr_stem, transformer, codec
        self.guidance, self.tagger, self.trunk = guidance, tagger, trunk
        self.config = config or PipelineConfig()
        self._in_place_of_torch = ""
        self.int8_ranges: int8.Ranges = {}
        if self.config.mean == "stem" and not isinstance(codec, ResidualCodec):
            raise ValueError("mean: the stem's prediction is the zero of a ResidualCodec only")
        stride = self.scale * lr_stem.multiple_of
        if stride != codec.compression:
            raise ValueError(
                f"the stem has one feature for {stride} HR pixels a side, and the codec one latent for "
                f"{codec.compression}: they need one grid"
            )
        if self.config.clean_steps is not None and not getattr(lr_stem.config, "strength_channels", 0):
            raise ValueError("clean_steps: the stem does not tell how degraded an image is")
        if trunk is None and self.config.num_inference_steps == 0:
            raise ValueError("num_inference_steps 0: there is no trunk that makes a picture without a step")
        if trunk is not None and (trunk.scale != self.scale or not isinstance(codec, ResidualCodec)):
            raise ValueError(f"trunk: needs a stem of scale {trunk.scale} and a ResidualCodec")
        if self.config.use_tags and tagger is None:
            raise ValueError("use_tags: the model has no tagger: add one, or set use_tags to false")
        width = self._token_channels
        if guidance is not None and guidance.channels != width:
            raise ValueError(
                f"guidance tokens have {guidance.channels} channels, and the transformer's caption_channels are {width}"
            )

    @property
    def _token_channels(self) -> int | None:
        """Of guidance tokens; None where the network does not say."""
        return getattr(self.transformer.config, "caption_channels", None)

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        model: str | os.PathLike[str] | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
        residency: Residency = "all",
    ) -> _Model:
        """Load a model.

        Args:
            model: a folder, or a hub id such as "owner/name"; None is the default model inside the package.
            torch_dtype: type of the weights; None takes bfloat16 where the device computes in it, else float32, and
                8 bits for convolutions of a known range where the processor is faster in them.
            device: "auto" takes CUDA where there is one, else the CPU.
            residency: which experts are kept on the device: "all"; "active" keeps the others on the CPU; "lazy"
                reads each from disk when its span begins. The encoders of guidance and taggers likewise.

        Raises:
            CheckpointError: the folder is no LinearSR model, or its weights are damaged or pickled.
            ValueError: parts that do not fit each other, or a device that is not there.
            RuntimeError: this process was forked from one that had loaded a model.
        """
        require_own_threads()
        folder = resolve_folder(model) if model is not None else default_model_folder()
        index = read_index(folder)
        try:
            config = PipelineConfig.from_index(index)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / MODEL_INDEX}: {error}") from None
        place = best_device() if device == "auto" else torch.device(device)
        parts = load_parts(folder, index, torch_dtype or best_dtype(place), place, residency)
        loaded = cls(
            parts.lr_stem, parts.transformer, parts.codec, config, parts.guidance, parts.tagger, parts.trunk
        )
        loaded.int8_ranges = ranges = load_ranges(folder)
        if torch_dtype is None and place.type == "cpu" and ranges and int8.supported():
            int8.use_int8_(parts.lr_stem, ranges, "lr_stem.")
            parts.transformer.for_each(partial(int8.use_int8_, ranges=ranges, prefix="transformer."))
            loaded._in_place_of_torch = "int8"
        return loaded

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
        """Write `model_index.json` and one folder a part; `from_pretrained` reads it back."""
        parts = ModelParts(self.lr_stem, self.transformer, self.codec, self.guidance, self.tagger, self.trunk)
        settings = {"_class_name": type(self).__name__, **asdict(self.config)}
        save_parts(Path(folder), parts, settings, dtype)
        save_ranges(Path(folder), self.int8_ranges)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the hub; returns the address of the commit."""
        return upload(self.save_pretrained, repo_id, private, token)

    def to(self: _Model, *args: Any, **kwargs: Any) -> _Model:
        """Move or convert all parts; arguments as for `torch.nn.Module.to`."""
        for part in (self.lr_stem, self.transformer, self.codec, self.guidance, self.tagger, self.trunk):
            if part is not None:
                part.to(*args, **kwargs)
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
    def arithmetic(self) -> str:
        """In what it computes, as results depend on it: "bfloat16", "int8, bfloat16", ..."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self._in_place_of_torch}, {dtype}" if self._in_place_of_torch else dtype

    @property
    def scale(self) -> int:
        """The model's own scale, HR size over LR size."""
        return self.lr_stem.config.scale

    @property
    def multiple_of(self) -> int:
        """LR sides are padded to a multiple of this, and the result is cropped back."""
        return self.lr_stem.multiple_of * int(self.transformer.config.patch_size)

    def options(
        self,
        *,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        fidelity: float | None = None,
        color_fix: ColourFix | None = None,
        tags: str | Sequence[str] | None = None,
        guidance_scale: float | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> Options:
        """What one call asks for, by its arguments: what is left open is taken from the model's own settings.

        Raises:
            ValueError: a setting of another type or out of its range.
            RuntimeError: this process was forked from one that had loaded a model.
        """
        require_own_threads()
        own = self.config
        if num_inference_steps == 0 and self.trunk is None:
            raise ValueError(f"0 steps: the model {own.name} has no trunk, so at least 1 is needed")
        return Options(
            scale=float(self.scale) if scale is None else scale,
            steps=own.num_inference_steps if num_inference_steps is None else num_inference_steps,
            fidelity=own.fidelity if fidelity is None else fidelity,
            drawing=None if fidelity is None else 0.0,
            color_fix=own.color_fix if color_fix is None else color_fix,
            tags=self._tag_request(tags),
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
            callback=callback_on_step_end,
            clean_steps=own.clean_steps if num_inference_steps is None else None,
        )

    @torch.inference_mode()
    def settled(self, options: Options, read: Callable[[int, int], Tensor], size: tuple[int, int]) -> Options:
        """The options with the fidelity and the steps that suit one LR image, where the call leaves them to the model.

        Args:
            read: (top, bottom) -> those rows of the image, (1, 3, bottom - top, w) in [-1, 1].
            size: (h, w) of the image.
        """
        if options.drawing is None:
            drawing = likeness_to_drawing(read, size)
            fidelity = options.fidelity + (1 - options.fidelity) * drawing
            options = replace(options, drawing=drawing, fidelity=fidelity)
        if options.clean_steps is None or options.fidelity == 1:
            return replace(options, clean_steps=None)
        seen = middle_of(read(*middle(size[0]))).to(self.device)
        strength = cast(PredictiveStem, self.lr_stem).strength(seen).item()
        steps = options.clean_steps if strength <= self.config.clean_strength else options.steps
        return replace(options, steps=steps, clean_steps=None)

    def guide(
        self, lr: Callable[[], Tensor], options: Options
    ) -> tuple[GuidanceTokens | None, tuple[str, ...]]:
        """What steers the network for one LR image, None for its null tokens; the tags behind it.

        Args:
            lr: gives the image (1, 3, h, w) in [-1, 1] where it must be seen.
        """
        tokens: GuidanceTokens | None = None
        tags: tuple[str, ...] = ()
        if options.guidance_scale > 0 and options.guidance is not None:
            tokens = options.guidance
        elif options.guidance_scale > 0 and self.guidance is not None:
            tokens, tags = guide(lr(), self.guidance, self.tagger, options.tags)
        null_is_seen = tokens is None or options.guidance_scale != 1
        if null_is_seen and not self.transformer.config.num_null_tokens:
            raise ValueError("this model cannot go without guidance: give tags, at a guidance scale of 1")
        return tokens, tags

    def steps(self, options: Options) -> list[Step]:
        """The steps to walk: none where none is asked for, or the stem's prediction is all that is."""
        if options.steps == 0 or (options.fidelity == 1 and self.config.mean == "stem"):
            return []
        times = self.config.times(options.steps)
        # the mean is the first step's estimate: no other step is needed
        return plan(times if options.fidelity < 1 else times[:2], self.config.solver)

    def _tag_request(self, tags: str | Sequence[str] | None) -> TagRequest:
        request = TagRequest.parse(tags, self.config.use_tags)
        if request.words and (self.guidance is None or not self.guidance.uses_tags):
            warnings.warn(f"the model {self.config.name} {IGNORES_TAGS}", stacklevel=3)
            return TagRequest()
        return request
