"""Log signal-to-noise ratio of the straight path z_t = (1 - t) data + t noise, and its inverse."""

import math
from typing import overload

import torch
from torch import Tensor


@overload
def log_snr(t: float) -> float: ...
@overload
def log_snr(t: Tensor) -> Tensor: ...
def log_snr(t: float | Tensor) -> float | Tensor:
    """lambda(t) = 2 ln((1 - t) / t), the log of signal power over noise power (arXiv 2510.08771).

    `t` in [0, 1], a number or a tensor of any shape; falls strictly, from +inf at t = 0 over 0 at t = 1/2 to
    -inf at t = 1. A number outside [0, 1] raises ValueError; such entries of a tensor become NaN.
    """
    if isinstance(t, Tensor):
        return 2 * (torch.log1p(-t) - torch.log(t))
    if not 0 <= t <= 1:
        raise ValueError(f"time {t} is outside [0, 1]")
    if t == 0:
        return math.inf
    if t == 1:
        return -math.inf
    return 2 * (math.log1p(-t) - math.log(t))


@overload
def time_from_log_snr(lam: float) -> float: ...
@overload
def time_from_log_snr(lam: Tensor) -> Tensor: ...
def time_from_log_snr(lam: float | Tensor) -> float | Tensor:
    """t = 1 / (1 + exp(lambda / 2)), the inverse of `log_snr`; any lambda, +-inf too, gives t in [0, 1]."""
    if isinstance(lam, Tensor):
        return torch.sigmoid(-lam / 2)
    # The exponential of a negative number only, so that no lambda overflows.
    decay = math.exp(-abs(lam) / 2)
    return decay / (1 + decay) if lam > 0 else 1 / (1 + decay)
