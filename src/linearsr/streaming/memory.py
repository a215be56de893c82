"""Estimates of the memory that a picture needs, whole and by strips, and whether there is enough."""

import torch

from linearsr.model import LinearSRModel
from linearsr.models.rrdb import ENLARGED_PIXELS
from linearsr.runtime.devices import available_memory

_WHOLE_BYTES_PER_PIXEL = 150
"""Peak bytes per pixel at the model's own scale; the default model takes 115 in bfloat16, 148 in float32."""
_RESIZED_BYTES_PER_PIXEL = 55
"""Peak bytes per pixel of a result at another scale, measured at 8; the HR image is in memory as well."""
_TRUNK_SHARE, _TRUNK_AT_ONCE = 1.5, 8
"""Copies of a trunk's widest layer, at the size of the picture, and at that of a piece after its blocks.
Measured for 512x512 LR pixels: 233 bytes per pixel at the model's own scale in bfloat16, 464 in float32."""
_LAG_COPIES, _STRIP_COPIES = 4, 40
"""The same in strips: copies for the rows that lag in its blocks, and for the strip. Measured in bfloat16, in
all: 1.1 GB at a width of 3000, and 1.3 GB at 1024."""
_DRAWN_BYTES = 12
"""Bytes per pixel of the trunk's picture: three channels in float32."""
_DECODER_LAYERS = 5
"""Copies of its widest layer, at the size of the picture, that a DC-AE decoder holds."""
_SHARE = 0.8
"""Share of the free memory that a picture may fill; the rest is a margin for the error of the estimates."""
_BUFFER_SHARE = 0.5
"""Share of the free memory that the buffers between passes may fill."""
_STRIP_PIXELS = {"cpu": 2**17}
"""LR pixels of a strip by device: on a CPU few, for its caches; elsewhere more, for fewer kernel launches."""
_STRIP_PIXELS_ELSEWHERE = 2**19
_STRIP_BYTES_PER_PIXEL = 9000
"""Peak bytes per LR pixel of a strip, measured with the default model: decoding, which joins strips."""


TRUNK_STRIP_PIXELS = 2**17
"""Most LR pixels in a strip of the trunk, whose layers are wide."""


def whole_bytes(model: LinearSRModel, height: int, width: int, scale: float | None = None) -> int:
    """Return the peak bytes for an LR picture in one piece, without weights; `scale`: of the result."""
    per_pixel: float = _WHOLE_BYTES_PER_PIXEL + _DECODER_LAYERS * model.codec.decoder_bytes
    fixed: float = 0
    if model.trunk is not None:
        layer = model.trunk.config.channels * model.dtype.itemsize
        per_pixel = max(per_pixel, _TRUNK_SHARE * layer)
        fixed = _TRUNK_AT_ONCE * layer * ENLARGED_PIXELS * model.scale**2
    resized = 0 if scale in (None, model.scale) else scale**2 * _RESIZED_BYTES_PER_PIXEL
    return int(fixed + height * width * (model.scale**2 * per_pixel + resized))


def strip_bytes(model: LinearSRModel, width: int, strip_rows: int | None = None) -> int:
    """Return the peak bytes for an LR picture by strips, with buffers on disk, without weights."""
    rows = strip_rows or strip_rows_for(width, model.device)
    needed = rows * width * _STRIP_BYTES_PER_PIXEL * model.scale**2 // 16
    if model.trunk is not None:
        layer = model.trunk.config.channels * model.dtype.itemsize
        lagging = _LAG_COPIES * model.trunk.lag * width
        needed += layer * (lagging + _STRIP_COPIES * min(rows * width, TRUNK_STRIP_PIXELS))
    return needed


def buffer_bytes(model: LinearSRModel, height: int, width: int, steps: int) -> int:
    """Return the most bytes in the buffers between passes, for an LR picture of this (padded) size."""
    item = model.dtype.itemsize
    lr_pixels = height * width
    latent = lr_pixels * model.scale**2 // model.codec.compression**2
    needed = sum(model.lr_stem.kept_channels) * item * lr_pixels // model.lr_stem.multiple_of**2
    if steps == 0 and model.trunk is not None:
        needed += lr_pixels * model.scale**2 * _DRAWN_BYTES
    if steps and model.transformer is not None:
        channels = model.codec.latent_channels
        with model.transformer.at(1000.0) as network:
            table: torch.Tensor = network.get_parameter("scale_shift_table")
            tokens = table.shape[1] * item * latent // int(model.transformer.config.patch_size) ** 2
        # the state, the first step's estimate and, for several steps, the previous step's; two predictions
        needed += latent * channels * (4 * (1 + min(steps, 2)) + 2 * item) + tokens
    sizes = [stage.channels * stage.scale**2 * stage.dtype.itemsize for stage in model.codec.stages()]
    return needed + latent * max((a + b for a, b in zip(sizes, [0, *sizes], strict=False)), default=0)


def strip_rows_for(width: int, device: torch.device) -> int:
    """Return the LR rows of a strip."""
    return max(1, _STRIP_PIXELS.get(device.type, _STRIP_PIXELS_ELSEWHERE) // width)


def strip_rows_within(model: LinearSRModel, width: int, limit: int) -> int:
    """Return the most LR rows of a strip that need at most `limit` bytes, but at least one."""
    one, two = (strip_bytes(model, width, rows) for rows in (1, 2))
    return max(1, 1 + (limit - one) // (two - one))


def fits_whole(needed: int, device: torch.device) -> bool:
    """Return whether a picture that needs so many bytes may be processed whole on a device."""
    there = available_memory(device)
    return there is None or needed <= _SHARE * there


def fits_in_memory(needed: int) -> bool:
    """Return whether buffers of so many bytes may be kept in memory."""
    there = available_memory(torch.device("cpu"))
    return there is None or needed <= _BUFFER_SHARE * there
