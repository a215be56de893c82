"""A model in memory: its parts, where they lie, and how they are loaded and saved."""

import os
from dataclasses import asdict
from functools import partial
from math import gcd, lcm
from pathlib import Path
from typing import Any, TypeVar

import torch

from linearsr.flow.experts import Residency, SNRExperts
from linearsr.flow.path import PredictionType
from linearsr.guidance.base import Guidance, Tagger
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
from linearsr.models.lr_stem import LRStem
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.checkpoints import CheckpointError, resolve_folder
from linearsr.runtime.devices import best_device, best_dtype, require_memory, require_own_threads
from linearsr.settings import PipelineConfig

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
            not start from it, or steps for clean images with a stem that does not know them.
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
        loaded.int8_ranges = ranges = load_ranges(folder, index)
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
        hr_multiple = self.codec.compression * int(self.transformer.config.patch_size)
        return lcm(self.lr_stem.multiple_of, hr_multiple // gcd(hr_multiple, self.scale))

    def estimate_memory(
        self, height: int, width: int, *, scale: float | None = None, streamed: bool = False
    ) -> int:
        """Peak bytes for an LR image of that size, without the weights: in one piece, or by strips.

        Args:
            scale: of a result in one piece; None: the model's own.
        """
        from linearsr.streaming import strip_bytes, whole_bytes

        return strip_bytes(self, width) if streamed else whole_bytes(self, height, width, scale)

    def fits(self, height: int, width: int, scale: float | None = None) -> bool:
        """Whether the device has the memory now for an LR image of that size in one piece; `scale` as above."""
        from linearsr.streaming.memory import fits_whole

        return fits_whole(self.estimate_memory(height, width, scale=scale), self.device)

    def require_memory(self, height: int, width: int) -> None:
        """Raises ValueError for an LR image of a size for which the device has not the memory in one piece."""
        require_memory(self.estimate_memory(height, width), self.device, f"an image of {width}x{height}")

    @property
    def prediction_type(self) -> PredictionType:
        """What the experts' output means."""
        value: PredictionType = self.transformer.config.prediction_type
        return value
