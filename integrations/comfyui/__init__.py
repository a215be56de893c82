"""LinearSR as nodes of ComfyUI. Copy or link this folder into `ComfyUI/custom_nodes/linearsr`."""

from .nodes import LinearSRLoader, LinearSRUpscale

NODE_CLASS_MAPPINGS = {"LinearSRLoader": LinearSRLoader, "LinearSRUpscale": LinearSRUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LinearSRLoader": "Load LinearSR model",
    "LinearSRUpscale": "Upscale image (LinearSR)",
}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
