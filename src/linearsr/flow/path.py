"""The straight path from data (t = 0) to noise (t = 1): its log-SNR, and what a network may predict on it.

z_t = (1 - t) data + t noise, so dz/dt = v = noise - data and data = z - t v. A time is one number, or one per
sample, (B,); tensors are (B, ...).
"""

import math
from typing import get_args

from torch import Tensor

from linearsr.models.transformer_config import PredictionType


def log_snr(t: float) -> float:
    """Return lambda(t) = 2 ln((1 - t) / t), the log of signal power over noise power (arXiv 2510.08771).

    It falls strictly from +inf at t = 0 through 0 at t = 1/2 to -inf at t = 1. Raises ValueError if `t` is
    outside [0, 1].
    """
    if not 0 <= t <= 1:
        raise ValueError(f"time {t} is outside [0, 1]")
    if t == 0:
        return math.inf
    if t == 1:
        return -math.inf
    return 2 * (math.log1p(-t) - math.log(t))


def time_from_log_snr(lam: float) -> float:
    """Return t = 1 / (1 + exp(lambda / 2)) in [0, 1], the inverse of `log_snr`, also for +-inf."""
    # Exponentiate negative numbers only, so that no lambda overflows.
    decay = math.exp(-abs(lam) / 2)
    return decay / (1 + decay) if lam > 0 else 1 / (1 + decay)


def add_noise(data: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """Return z_t = (1 - t) data + t noise for `data` and `noise` (B, ...) and `t` in [0, 1]."""
    t = _per_sample(t, data)
    return (1 - t) * data + t * noise


def to_velocity(prediction: Tensor, z: Tensor, t: float | Tensor, prediction_type: PredictionType) -> Tensor:
    """Convert a network's `prediction` at (`z`, `t`) to the velocity, (B, ...).

    For `prediction_type="sample"` this is (z - prediction) / t, which has no value at t = 0: there a number
    raises ValueError, and an entry of a tensor gives NaN or inf.
    """
    _check(prediction_type)
    if prediction_type == "flow_prediction":
        return prediction
    if not isinstance(t, Tensor) and t <= 0:
        raise ValueError(f"the velocity of a sample prediction needs a time above 0, not {t}")
    return (z - prediction) / _per_sample(t, z)


def to_sample(prediction: Tensor, z: Tensor, t: float | Tensor, prediction_type: PredictionType) -> Tensor:
    """Convert a network's `prediction` at (`z`, `t`) to clean data, (B, ...): z - t v, or itself."""
    _check(prediction_type)
    if prediction_type == "sample":
        return prediction
    return z - _per_sample(t, z) * prediction


def _check(prediction_type: str) -> None:
    if prediction_type not in get_args(PredictionType):
        raise ValueError(
            f"prediction_type {prediction_type!r} is not one of {', '.join(get_args(PredictionType))}"
        )


def _per_sample(t: float | Tensor, like: Tensor) -> float | Tensor:
    """Return `t` as (B, 1, 1, ...), so that it broadcasts over samples and not over the last axis."""
    if not isinstance(t, Tensor) or t.ndim == 0:
        return t
    if t.shape != like.shape[:1]:
        raise ValueError(f"times have shape {tuple(t.shape)}; one per sample, ({like.shape[0]},), is needed")
    return t.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
