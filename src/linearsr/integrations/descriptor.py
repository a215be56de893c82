"""A model as programs such as chaiNNer take it: a few facts, and a call from tensor to tensor.

Fields, names and the call are those of `ImageModelDescriptor` of `spandrel`, which is not needed for it.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from linearsr.pipeline import LinearSRPipeline
from linearsr.runtime.checkpoints import StrPath


class ModelTiling(Enum):
    """Whether an image should be cut into tiles before it is given to a model."""

    SUPPORTED = 1
    DISCOURAGED = 2
    """It can be, but the model looks at the whole image, and tiles differ from each other."""
    INTERNAL = 3


@dataclass(frozen=True)
class SizeRequirements:
    """What sizes of images a model takes without padding."""

    minimum: int = 0
    """Pixels of a side."""
    multiple_of: int = 1
    """Of each side. The call pads by itself; who chooses a size of tiles can save the padding."""
    square: bool = False


class LinearSRModule(nn.Module):
    """A pipeline as a module: (B, 3, h, w) in [0, 1] -> (B, 3, H, W) in [0, 1] at the model's own scale.

    Args:
        pipeline: its parts become sub-modules.
        settings: for every call of the pipeline, such as `fidelity`, `num_inference_steps`, `seed`. Steps are the same
            for all images, if they are not given here: these may be tiles of one, or frames.
    """

    def __init__(self, pipeline: LinearSRPipeline, **settings: Any) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.settings = {"num_inference_steps": pipeline.config.num_inference_steps, **settings}
        for part in ("lr_stem", "transformer", "codec", "trunk"):
            setattr(self, part, getattr(pipeline, part))

    def forward(self, image: Tensor) -> Tensor:
        """Raises ValueError for another shape."""
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"an image must be (B, 3, h, w), not {tuple(image.shape)}")
        results = self.pipeline(image.clamp(0, 1), output_type="pt", **self.settings).images
        return torch.stack(results).to(image)


@dataclass
class LinearSRDescriptor:
    """What there is to know of a model before it is used; calling it upscales an image."""

    model: LinearSRModule
    scale: int
    size_requirements: SizeRequirements
    tags: list[str] = field(default_factory=list)
    """Of the model, such as its name."""
    architecture: str = "LinearSR"
    purpose: str = "SR"
    input_channels: int = 3
    output_channels: int = 3
    supports_half: bool = False
    supports_bfloat16: bool = True
    tiling: ModelTiling = ModelTiling.DISCOURAGED

    @classmethod
    def from_pretrained(
        cls, model: StrPath | None = None, device: str | torch.device = "auto", **settings: Any
    ) -> "LinearSRDescriptor":
        """Load a model: a folder or a hub id; None is the one in the package.

        Args:
            settings: for every call, as for `LinearSRPipeline.__call__`.

        Raises:
            CheckpointError: no such model, or it is damaged.
        """
        pipeline = LinearSRPipeline.from_pretrained(model, device=device)
        return cls(
            LinearSRModule(pipeline, **settings),
            scale=pipeline.scale,
            size_requirements=SizeRequirements(multiple_of=pipeline.multiple_of),
            tags=[pipeline.config.name],
        )

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights; images may be of any other."""
        return self.model.pipeline.dtype

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "LinearSRDescriptor":
        """Move or convert the model.

        Raises:
            ValueError: float16, in which nobody has tested it on a GPU.
        """
        if dtype == torch.float16:
            raise ValueError("LinearSR is not tested in float16: choose bfloat16 or float32")
        self.model.pipeline.to(device=device, dtype=dtype)
        return self

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, h, w) in [0, 1], or several -> (1, 3, scale h, scale w) in [0, 1], on the device of `image`.

        Raises:
            ValueError: another shape.
        """
        return self.model(image)  # type: ignore[no-any-return]
