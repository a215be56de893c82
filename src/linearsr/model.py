"""A model in memory: its parts and where they are, loading and saving, and the options of one call."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from linearsr.flow import Residency
from linearsr.model_folder import (
    MODEL_INDEX,
    ModelParts,
    find_model,
    load_parts,
    load_ranges,
    load_tagger,
    read_index,
    save_parts,
    save_ranges,
    upload,
)
from linearsr.models import int8
from linearsr.models.codec import Codec, ResidualCodec
from linearsr.models.lr_stem import LRStem
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.checkpoints import CheckpointError, StrPath
from linearsr.runtime.devices import best_device, best_dtype, require_own_threads
from linearsr.settings import IGNORES_TAGS, ColourFix, Options, PipelineConfig, StepCallback, TagRequest

if TYPE_CHECKING:
    from linearsr.flow.experts import SNRExperts
    from linearsr.guidance.base import Guidance, Tagger

_Model = TypeVar("_Model", bound="LinearSRModel")
_READING = Lock()
"""Lock held while a tagger loads, because threads that share a model may ask for it at the same time."""


class LinearSRModel:
    """LR stem, experts, codec and guidance that belong together.

    Args:
        lr_stem: gives the network its features of the LR image.
        transformer: one or several experts; None: there are none, and the trunk draws every picture.
        codec: converts between latents and pixels.
        config: default settings of the model.
        guidance: makes the tokens that the network sees besides the LR image; None: no guidance.
        tagger: finds tags for a guidance that uses them.
        trunk: draws the picture if no step is taken; the stem must predict a picture too, the mean.

    Raises:
        ValueError: 0 steps by default without a trunk, or more without experts; a trunk of another scale; a
            stem and a codec with different grids; guidance tokens of another width than the network takes; a
            mean from the stem with a codec that does not start from it; or `use_tags` without a tagger.
    """

    def __init__(
        self,
        lr_stem: LRStem,
        transformer: "SNRExperts | None",
        codec: Codec,
        config: PipelineConfig | None = None,
        guidance: "Guidance | None" = None,
        tagger: "Tagger | None" = None,
        trunk: RRDBNet | None = None,
    ) -> None:
        self.lr_stem, self.transformer, self.codec = lr_stem, transformer, codec
        self.guidance, self._tagger, self.trunk = guidance, tagger, trunk
        self.config = config or PipelineConfig()
        self._read_tagger: Callable[[torch.dtype, torch.device], Tagger] | None = None
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
        if trunk is None and (transformer is None or self.config.num_inference_steps == 0):
            raise ValueError("num_inference_steps 0: the model has no trunk, so it needs at least one step")
        if transformer is None and self.config.num_inference_steps:
            raise ValueError(
                f"num_inference_steps {self.config.num_inference_steps}: there are no experts: set 0"
            )
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
        """Channels of guidance tokens; None if no network defines them."""
        return (
            None if self.transformer is None else getattr(self.transformer.config, "caption_channels", None)
        )

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        model: StrPath | None = None,
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
        residency: Residency = "all",
    ) -> _Model:
        """Load a model.

        Args:
            model: a folder, or a hub id such as "owner/name"; None: the default model inside the package.
            torch_dtype: dtype of the weights. None: bfloat16 if the device computes in it, else float32; the
                trunk uses 8 bits if its ranges are known and the processor is clearly faster in them.
            device: "auto" takes CUDA if there is one, else the CPU.
            residency: which experts are kept on the device: "all"; "active" keeps the others on the CPU;
                "lazy" reads each from disk when its span begins. The same holds for the encoders of guidance
                and taggers.

        Raises:
            CheckpointError: the folder is no LinearSR model, or its weights are damaged or pickled.
            ValueError: the parts do not fit each other, or the device does not exist.
            RuntimeError: this process was forked from one that had loaded a model.
        """
        require_own_threads()
        folder = find_model(model)
        index = read_index(folder)
        try:
            config = PipelineConfig.from_index(index)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / MODEL_INDEX}: {error}") from None
        place = best_device() if device == "auto" else torch.device(device)
        parts = load_parts(folder, index, torch_dtype or best_dtype(place), place, residency)
        loaded = cls(**parts._asdict(), config=config)
        if index.get("tagger") is not None and parts.tagger is None:
            loaded._read_tagger = partial(load_tagger, folder / "tagger", residency=residency)
        loaded.int8_ranges = ranges = load_ranges(folder)
        if (
            torch_dtype is None
            and parts.trunk is not None
            and int8.are_used(bool(ranges), place, loaded.dtype)
        ):
            int8.use_int8_(parts.trunk, ranges)
            loaded._in_place_of_torch = "int8"
        return loaded

    def save_pretrained(self, folder: StrPath, dtype: torch.dtype | None = None) -> None:
        """Write `model_index.json` and one folder per part; `from_pretrained` reads them back."""
        settings = {"_class_name": type(self).__name__, **asdict(self.config)}
        save_parts(Path(folder), self.parts, settings, dtype)
        save_ranges(Path(folder), self.int8_ranges)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the hub and return the address of the commit."""
        return upload(self.save_pretrained, repo_id, private, token)

    def to(self: _Model, *args: Any, **kwargs: Any) -> _Model:
        """Move or convert all parts; arguments as for `torch.nn.Module.to`."""
        for part in (self.lr_stem, self.transformer, self.codec, self.guidance, self._tagger, self.trunk):
            if part is not None:
                part.to(*args, **kwargs)
        return self

    @property
    def tagger(self) -> "Tagger | None":
        """The tagger, if any. One whose tags do not guide the model is loaded on first access."""
        with _READING:
            if self._tagger is None and self._read_tagger is not None:
                self._tagger = self._read_tagger(self.dtype, self.device)
        return self._tagger

    @tagger.setter
    def tagger(self, tagger: "Tagger | None") -> None:
        self._tagger, self._read_tagger = tagger, None

    @property
    def parts(self) -> ModelParts:
        """Return all parts in their current state."""
        return ModelParts(self.lr_stem, self.transformer, self.codec, self.guidance, self.tagger, self.trunk)

    @property
    def device(self) -> torch.device:
        """The device of the LR stem."""
        return next(self.lr_stem.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stem's weights."""
        return next(self.lr_stem.parameters()).dtype

    @property
    def arithmetic(self) -> str:
        """The arithmetic in use, such as "bfloat16" or "int8, bfloat16"; results depend on it."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self._in_place_of_torch}, {dtype}" if self._in_place_of_torch else dtype

    @property
    def scale(self) -> int:
        """The model's own scale, HR size over LR size."""
        return self.lr_stem.config.scale

    @property
    def multiple_of(self) -> int:
        """LR sides are padded to a multiple of this, and the result is cropped back."""
        patch = 1 if self.transformer is None else int(self.transformer.config.patch_size)
        return self.lr_stem.multiple_of * patch

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
        own_guidance: bool = True,
    ) -> Options:
        """Return the options of one call; arguments that are None take the model's own settings.

        Args:
            own_guidance: whether the guidance, if any, is the model's own and not tokens from the caller.

        Raises:
            ValueError: a setting of the wrong type or out of range, or one that this model cannot follow.
            RuntimeError: this process was forked from one that had loaded a model.
        """
        require_own_threads()
        own = self.config
        if num_inference_steps == 0 and self.trunk is None:
            raise ValueError(f"0 steps: the model {own.name} has no trunk, so at least 1 is needed")
        if num_inference_steps and self.transformer is None:
            raise ValueError(
                f"steps {num_inference_steps}: the model {own.name} has no experts, only a trunk: ask for 0 steps"
            )
        if own_guidance and self.guidance is None and guidance_scale not in (None, 1):
            raise ValueError(f"the model {own.name} has no guidance to scale: give guidance_embeds")
        return Options(
            scale=float(self.scale) if scale is None else scale,
            steps=own.num_inference_steps if num_inference_steps is None else num_inference_steps,
            fidelity=own.fidelity if fidelity is None else fidelity,
            drawing=None if fidelity is None else 0.0,
            color_fix=own.color_fix if color_fix is None else color_fix,
            tags=self._tag_request(tags),
            guidance_scale=own.guidance_scale if guidance_scale is None else guidance_scale,
            callback=callback_on_step_end,
        )

    def unknown_tags(self, tags: str | Sequence[str] | None) -> list[str]:
        """Return the words among a caller's tags that match no tag of the model, or are too many for it."""
        return self._unknown(self._tag_request(tags).words)

    def _unknown(self, words: Sequence[str]) -> list[str]:
        return self.guidance.understand(words).unknown if self.guidance is not None and words else []

    def _tag_request(self, tags: str | Sequence[str] | None) -> TagRequest:
        request = TagRequest.parse(tags, self.config.use_tags)
        if request.words and (self.guidance is None or not self.guidance.uses_tags):
            warnings.warn(f"the model {self.config.name} {IGNORES_TAGS}", stacklevel=3)
            return TagRequest()
        return request
