"""The losses of JPEG, computed on tensors on any device, without an entropy coder.

The lossy steps are those of libjpeg at 4:2:0 (ITU-T T.81; the averaging of chroma with an alternating bias
and the "fancy" triangle upsampling are libjpeg's own), so that the result matches Pillow's up to rounding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))


def jpeg(images: Tensor, quality: int) -> Tensor:
    """Encode images as JPEG and decode them again.

    Args:
        images: (B, 3, H, W) in [0, 1], float32.
        quality: 1 to 100.

    Returns:
        (B, 3, H, W) in [0, 1] on the 8-bit grid.
    """
    height, width = images.shape[-2:]
    pixels = _extended((images.clamp(0, 1) * 255).round(), _ceil(height, 16), _ceil(width, 16))
    centre = pixels.new_tensor((0, 128, 128))[:, None, None]
    ycc = (_mix(pixels, _TO_YCC) + centre).round()
    luma = _coded(ycc[:, :1], _table(_LUMA_TABLE, quality))
    chroma = _coded(_halved(ycc[:, 1:]), _table(_CHROMA_TABLE, quality))
    inner = chroma[..., : (height + 1) // 2, : (width + 1) // 2]
    chroma = _extended(inner, chroma.shape[-2], chroma.shape[-1])
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()
    decoded = _mix(torch.cat([luma, chroma], dim=1) - centre, _TO_RGB).round().clamp(0, 255) / 255
    return decoded[..., :height, :width]


def _extended(images: Tensor, height: int, width: int) -> Tensor:
    """Extend images to a larger size by repeating the last row and column."""
    return F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]), mode="replicate")


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _mix(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", images.new_tensor(matrix), images)


def _halved(chroma: Tensor) -> Tensor:
    bias = torch.arange(chroma.shape[-1] // 2, device=chroma.device) % 2 + 1
    return ((F.avg_pool2d(chroma, 2) * 4 + bias) / 4).floor()


def _table(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """Return the (8, 8) quantisation steps for a quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255).float()


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Quantise the DCT of the 8x8 blocks of planes (B, C, H, W) in [0, 255], and decode them again."""
    batch, channels, height, width = planes.shape
    dct, table = _dct_matrix(planes.device), table.to(planes.device)
    blocks = planes.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    # libjpeg's DCT gives multiples of 1/8, so halves are frequent, and float error must not decide their
    # rounding: coefficients are rounded away from zero, pixels up
    eighths = (dct @ blocks @ dct.T * 8).round()
    levels = eighths.sign() * ((eighths.abs() + 4 * table) / (8 * table)).floor()
    decoded = (dct.T @ (levels * table) @ dct + 128.501).floor().clamp(0, 255)
    return decoded.transpose(3, 4).reshape(batch, channels, height, width)


def _dct_matrix(device: torch.device) -> Tensor:
    """Return the orthonormal DCT matrix (8, 8), whose row k is the k-th cosine."""
    k = torch.arange(8, dtype=torch.float32, device=device)
    matrix = torch.cos((2 * k + 1) * k[:, None] * (math.pi / 16)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
