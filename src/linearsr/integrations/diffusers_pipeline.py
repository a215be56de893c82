"""LinearSR as a `diffusers` pipeline: its parts are components, and `LinearSRPipeline` does the work.

    from linearsr.integrations.diffusers_pipeline import LinearSRDiffusionPipeline
    pipe = LinearSRDiffusionPipeline.from_pretrained()

or, since no other file in this folder is needed, as a custom pipeline that `diffusers` loads:

    custom = ".../diffusers_pipeline.py"
    DiffusionPipeline.from_pretrained(folder, custom_pipeline=custom, trust_remote_code=True)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import nn

from linearsr.model_folder import find_model
from linearsr.pipeline import LinearSRPipeline, PipelineConfig
from linearsr.runtime.checkpoints import StrPath

_PARTS = ("lr_stem", "transformer", "codec", "guidance", "tagger", "trunk")
_HERE = "linearsr.integrations.diffusers_pipeline"


class ModelMixin(nn.Module):
    """A marker: `diffusers` loads a class with `from_pretrained` if its module has a base of this name."""


class Part(ModelMixin):
    """A loader for one part; the part itself is an instance of another class."""

    @staticmethod
    def from_pretrained(
        folder: StrPath,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Load the part in `folder`, a subfolder of a model, on the CPU.

        The type comes by one keyword or the other, depending on the version of `diffusers`.
        """
        path = Path(folder)
        return getattr(_load(path.parent, torch_dtype or dtype or torch.float32), path.name)


@lru_cache(maxsize=1)
def _load(folder: Path, dtype: torch.dtype) -> LinearSRPipeline:
    """Load the whole model, and keep it, because `diffusers` asks for its parts one after the other."""
    loaded = LinearSRPipeline.from_pretrained(folder, torch_dtype=dtype, device="cpu")
    # the ranges travel with the stem, because `diffusers` passes only components to the pipeline
    loaded.lr_stem.int8_ranges = loaded.int8_ranges  # type: ignore[assignment]
    return loaded


class LinearSRDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Image super-resolution with a LinearSR model, as a `DiffusionPipeline`.

    Args:
        lr_stem, codec, transformer, guidance, tagger, trunk: the parts, as for `LinearSRPipeline`.
        settings: the fields of `PipelineConfig`; None uses their defaults.
    """

    _optional_components = ["transformer", "guidance", "tagger", "trunk"]  # noqa: RUF012
    model_cpu_offload_seq = "tagger->guidance->lr_stem->transformer->codec->trunk"

    def __init__(
        self,
        lr_stem: nn.Module,
        codec: nn.Module,
        transformer: nn.Module | None = None,
        guidance: nn.Module | None = None,
        tagger: nn.Module | None = None,
        trunk: nn.Module | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        parts = {"lr_stem": lr_stem, "transformer": transformer, "codec": codec}
        self.register_modules(**parts, guidance=guidance, tagger=tagger, trunk=trunk)
        self.register_to_config(settings=dict(settings or asdict(PipelineConfig())))
        _load.cache_clear()

    @classmethod
    def from_pretrained(cls, model: StrPath | None = None, **kwargs: Any) -> "LinearSRDiffusionPipeline":
        """Load a model from a folder or a hub id; None loads the built-in one. Arguments as in `diffusers`.

        Raises:
            CheckpointError: there is no such model, or it is damaged.
        """
        folder = find_model(model)
        pipeline: LinearSRDiffusionPipeline = super().from_pretrained(str(folder), **kwargs)
        return pipeline

    @classmethod
    def extract_init_dict(
        cls, config_dict: dict[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return what `diffusers` builds the pipeline from: a loader for each part, and the settings."""
        parts = {name: (_HERE, "Part") for name in _PARTS if config_dict.get(name) is not None}
        return {**parts, "settings": asdict(PipelineConfig.from_index(config_dict))}, kwargs, {}

    def save_pretrained(
        self, save_directory: StrPath, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Save the model to a folder that this class and `LinearSRPipeline` can load."""
        self.linearsr.save_pretrained(save_directory, dtype)

    def to(self, *args: Any, **kwargs: Any) -> "LinearSRDiffusionPipeline":
        """Move or convert all parts, with the arguments of `torch.nn.Module.to`."""
        self.linearsr.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the LR stem."""
        return self.linearsr.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the LR stem's weights."""
        return self.linearsr.dtype

    @property
    def linearsr(self) -> LinearSRPipeline:
        """A `LinearSRPipeline` of the components in their current state."""
        parts = {name: getattr(self, name) for name in _PARTS}
        model = LinearSRPipeline(**parts, config=PipelineConfig.from_index(self.config.settings))
        model.int8_ranges = getattr(self.lr_stem, "int8_ranges", {})
        return model

    def __call__(
        self,
        image: Any,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        **settings: Any,
    ) -> "ImagePipelineOutput | tuple[Any]":
        """Upscale one image or several, with the arguments of `LinearSRPipeline.__call__`.

        Returns:
            An `ImagePipelineOutput`, or the tuple `(images,)` if `return_dict` is false.

        Raises:
            ValueError: as for `LinearSRPipeline.__call__`.
        """
        images: Any = self.linearsr(
            image,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            output_type=output_type,  # type: ignore[arg-type]
            callback_on_step_end=callback_on_step_end,
            **settings,
        ).images
        if output_type == "np" and len({array.shape for array in images}) == 1:
            import numpy as np

            images = np.stack(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
