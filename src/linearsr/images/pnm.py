"""PPM with 16 bits per channel, of which Pillow keeps 8 (Netpbm's specification of P6)."""

import re

import numpy as np
from numpy.typing import NDArray

_HEAD = re.compile(rb"P6" + rb"(?:\s|#[^\n]*\n)+(\d+)" * 3 + rb"\s")


def deep_ppm(data: bytes) -> NDArray[np.uint16] | None:
    """(H, W, 3), white at 65535; None if it is no PPM of more than 8 bits, or ends too early."""
    head = _HEAD.match(data)
    if head is None:
        return None
    width, height, white = map(int, head.groups())
    if not 255 < white <= 65535 or len(data) < head.end() + width * height * 6:
        return None
    samples = np.frombuffer(data, ">u2", width * height * 3, head.end()).reshape(height, width, 3)
    scaled = np.minimum(samples, white).astype(np.uint32)
    deep: NDArray[np.uint16] = ((scaled * 65535 + white // 2) // white).astype(np.uint16)
    return deep
