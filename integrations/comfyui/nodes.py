"""Two nodes: one loads a model, the other upscales images with it.

ComfyUI's images are tensors (B, H, W, C) in [0, 1]; its modules are imported where they are used, and are there only
when ComfyUI runs.
"""

from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr import LinearSRPipeline

BUILT_IN = "built in"
MODELS = "linearsr"
"""The sub-folder of ComfyUI's `models` in which each folder is a model."""


class LinearSRLoader:
    """A model from the package, or from a folder in `models/linearsr`."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("LINEARSR_MODEL",)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node asks for."""
        return {"required": {"model": ([BUILT_IN, *model_folders()],)}}

    def load(self, model: str) -> tuple[LinearSRPipeline]:
        """The pipeline, on the device that ComfyUI computes on."""
        from comfy import model_management

        folder = None if model == BUILT_IN else model_folders()[model]
        device = model_management.get_torch_device()
        return (LinearSRPipeline.from_pretrained(folder, device=device),)


class LinearSRUpscale:
    """Images upscaled one after the other, with a step of the progress bar for each network evaluation."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node asks for."""
        return {
            "required": {
                "model": ("LINEARSR_MODEL",),
                "image": ("IMAGE",),
                "scale": ("FLOAT", {"default": 4.0, "min": 1.0, "max": 8.0, "step": 0.25}),
                "fidelity": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "0: the most detail, some of it invented; 1: closest to the input",
                    },
                ),
                "steps": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1000,
                        "tooltip": "0: as the model does, for a single image by how clean it is",
                    },
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1}),
            },
            "optional": {
                "tags": (
                    "STRING",
                    {"default": "", "tooltip": "What is in it: brick wall, ivy. Empty: the model's way"},
                )
            },
        }

    def upscale(
        self,
        model: LinearSRPipeline,
        image: Tensor,
        scale: float,
        fidelity: float,
        steps: int,
        seed: int,
        tags: str = "",
    ) -> tuple[Tensor]:
        """(B, H, W, C) -> (B, scale H, scale W, C), both in [0, 1] and on the CPU."""
        from comfy import model_management
        from comfy.utils import ProgressBar

        if not steps and len(image) > 1:
            # frames, or tiles of one image: the same for all, however clean each is
            steps = model.config.num_inference_steps
        bar, done = ProgressBar(len(image)), count(1)

        def on_step(pipeline: object, step: int, time: float, state: dict[str, Any]) -> None:
            model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(next(done), len(image) * state["steps"])

        result = model(
            image.clamp(0, 1).movedim(-1, 1),
            scale=scale,
            fidelity=fidelity,
            num_inference_steps=steps or None,
            seed=seed,
            tags=tags.strip() or None,
            output_type="pt",
            callback_on_step_end=on_step,
        )
        return (torch.stack(result.images).movedim(1, -1).contiguous(),)


def model_folders() -> dict[str, Path]:
    """Name -> folder of each model in ComfyUI's `models/linearsr`."""
    import folder_paths

    indices = sorted(Path(folder_paths.models_dir, MODELS).glob("*/model_index.json"))
    return {index.parent.name: index.parent for index in indices}
