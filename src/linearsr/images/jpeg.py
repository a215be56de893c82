"""What JPEG leaves of images, computed on tensors: a batch at once, on any device, without an entropy coder.

It repeats the lossy steps of libjpeg at 4:2:0 (ITU-T T.81; the averaging of chroma with alternating bias and the
"fancy" triangle upsampling are libjpeg's), so that the result is Pillow's up to rounding.
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


def jpeg(images: Tensor, sizes: Tensor, qualities: Tensor) -> Tensor:
    """Encode and decode images that may differ in size.

    Args:
        images: (B, 3, H, W) in [0, 1], float32; image i fills the upper left corner.
        sizes: (B, 2) height and width of each image, on the same device.
        qualities: (B,) in 1..100, on the same device.

    Returns:
        (B, 3, H, W) in [0, 1] on the 8-bit grid; outside the images the values mean nothing.
    """
    height, width = images.shape[-2:]
    pixels = repeat_edges((images.clamp(0, 1) * 255).round(), sizes, (_ceil(height, 16), _ceil(width, 16)))
    centre = pixels.new_tensor((0, 128, 128))[:, None, None]
    ycc = (_mix(pixels, _TO_YCC) + centre).round()
    luma = _coded(ycc[:, :1], _table(_LUMA_TABLE, qualities))
    chroma = _coded(_halved(ycc[:, 1:]), _table(_CHROMA_TABLE, qualities))
    chroma = repeat_edges(chroma, (sizes + 1) // 2, (chroma.shape[-2], chroma.shape[-1]))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear").round()
    decoded = _mix(torch.cat([luma, chroma], dim=1) - centre, _TO_RGB).round().clamp(0, 255) / 255
    return decoded[..., :height, :width]


def repeat_edges(images: Tensor, sizes: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, C, *shape): each image goes on beyond its size with its last row and column."""
    rows, columns = (
        torch.minimum(torch.arange(length, device=images.device), sizes[:, axis, None] - 1)
        for axis, length in enumerate(shape)
    )
    return take_pixels(images, rows, columns)


def take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, h, w) of images (B, C, H, W) at rows (B, h) and columns (B, w) of each."""
    batch, channels, _, width = images.shape
    taken = images.gather(2, rows[:, None, :, None].expand(batch, channels, -1, width))
    return taken.gather(3, columns[:, None, None, :].expand(batch, channels, rows.shape[1], -1))


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _mix(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", images.new_tensor(matrix), images)


def _halved(chroma: Tensor) -> Tensor:
    bias = torch.arange(chroma.shape[-1] // 2, device=chroma.device) % 2 + 1
    return ((F.avg_pool2d(chroma, 2) * 4 + bias) / 4).floor()


def _table(base: tuple[tuple[int, ...], ...], qualities: Tensor) -> Tensor:
    """(B, 1, 1, 1, 8, 8) quantisation steps."""
    percent = torch.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    steps = (torch.tensor(base, device=qualities.device) * percent[:, None, None] + 50) // 100
    return steps.clamp(1, 255)[:, None, None, None].float()


def _coded(planes: Tensor, table: Tensor) -> Tensor:
    """Planes (B, C, H, W) in [0, 255] through the quantised DCT of their 8x8 blocks."""
    batch, channels, height, width = planes.shape
    dct = _dct_matrix(planes.device)
    blocks = planes.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) - 128
    # libjpeg ends its DCT on eighths, so halves are frequent and their rounding must not be left to float error:
    # coefficients go away from zero, pixels go up
    eighths = (dct @ blocks @ dct.T * 8).round()
    levels = eighths.sign() * ((eighths.abs() + 4 * table) / (8 * table)).floor()
    decoded = (dct.T @ (levels * table) @ dct + 128.501).floor().clamp(0, 255)
    return decoded.transpose(3, 4).reshape(batch, channels, height, width)


def _dct_matrix(device: torch.device) -> Tensor:
    """(8, 8), orthonormal: row k is the k-th cosine."""
    k = torch.arange(8, dtype=torch.float32, device=device)
    matrix = torch.cos((2 * k + 1) * k[:, None] * (math.pi / 16)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
