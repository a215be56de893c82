"""LinearSR as a `DiffusionPipeline` of `diffusers`: its parts are components, `LinearSRPipeline` does the work.

    from linearsr.integrations.diffusers_pipeline import LinearSRDiffusionPipeline
    pipe = LinearSRDiffusionPipeline.from_pretrained()

or, since this file stands alone, as code that `diffusers` loads:

    DiffusionPipeline.from_pretrained(folder, custom_pipeline=".../diffusers_pipeline.py", trust_remote_code=True)
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
    """A class of this name beside a component's class tells `diffusers` that `from_pretrained` loads it."""


class Part(ModelMixin):
    """Loads one part, which is of another class."""

    @staticmethod
    def from_pretrained(
        folder: StrPath,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """The part that lies in `folder`, a sub-folder of a model, on the CPU; the type has two names over versions."""
        path = Path(folder)
        return getattr(_load(path.parent, torch_dtype or dtype or torch.float32), path.name)


@lru_cache(maxsize=1)
def _load(folder: Path, dtype: torch.dtype) -> LinearSRPipeline:
    """The whole model: `diffusers` asks for its parts one after the other."""
    loaded = LinearSRPipeline.from_pretrained(folder, torch_dtype=dtype, device="cpu")
    # the only way that leads through `diffusers` to what is saved
    loaded.lr_stem.int8_ranges = loaded.int8_ranges  # type: ignore[assignment]
    return loaded


class LinearSRDiffusionPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Image super-resolution with the components of a LinearSR model.

    Args:
        lr_stem, codec, transformer, guidance, tagger, trunk: as for `LinearSRPipeline`.
        settings: the fields of `PipelineConfig`.
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
        """Load a model: a folder or a hub id; None is the one in the package. Arguments as in `diffusers`.

        Raises:
            CheckpointError: no such model, or it is damaged.
        """
        folder = find_model(model)
        pipeline: LinearSRDiffusionPipeline = super().from_pretrained(str(folder), **kwargs)
        return pipeline

    @classmethod
    def extract_init_dict(
        cls, config_dict: dict[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What `diffusers` makes the pipeline of: for each part who loads it, and the settings."""
        parts = {name: (_HERE, "Part") for name in _PARTS if config_dict.get(name) is not None}
        return {**parts, "settings": asdict(PipelineConfig.from_index(config_dict))}, kwargs, {}

    def save_pretrained(
        self, save_directory: StrPath, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> None:
        """Write a folder that this class and `LinearSRPipeline` load."""
        self.linearsr.save_pretrained(save_directory, dtype)

    def to(self, *args: Any, **kwargs: Any) -> "LinearSRDiffusionPipeline":
        """Move or convert all parts; arguments as for `torch.nn.Module.to`."""
        self.linearsr.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        """Where the LR stem lies."""
        return self.linearsr.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the LR stem's weights."""
        return self.linearsr.dtype

    @property
    def linearsr(self) -> LinearSRPipeline:
        """The pipeline of the components as they are now."""
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
        """Upscale one image or several; other `settings` as for `LinearSRPipeline.__call__`.

        Returns:
            `ImagePipelineOutput`, or a tuple whose first item is its `images`.

        Raises:
            ValueError: as `LinearSRPipeline.__call__`.
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
