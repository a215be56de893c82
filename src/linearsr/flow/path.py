"""The straight path from data (t = 0) to noise (t = 1): its log-SNR, and what a network may predict on it.

z_t = (1 - t) data + t noise, so dz/dt = v = noise - data, data = z - t v. Times are a number or one per
sample, (B,); tensors are (B, ...).
"""

import math
from typing import Literal, get_args

from torch import Tensor

PredictionType = Literal["flow_prediction", "sample"]
"""What a network's output is: the velocity v = noise - data, or the clean data itself."""


def log_snr(t: float) -> float:
    """lambda(t) = 2 ln((1 - t) / t), the log of signal power over noise power (arXiv 2510.08771).

    For `t` in [0, 1], else ValueError; falls strictly, from +inf at t = 0 over 0 at t = 1/2 to -inf at t = 1.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"time {t} is outside [0, 1]")
    if t == 0:
        return math.inf
    if t == 1:
        return -math.inf
    return 2 * (math.log1p(-t) - math.log(t))


def time_from_log_snr(lam: float) -> float:
    """t = 1 / (1 + exp(lambda / 2)), the inverse of `log_snr`; any lambda, +-inf too, gives t in [0, 1]."""
    # The exponential of a negative number only, so that no lambda overflows.
    decay = math.exp(-abs(lam) / 2)
    return decay / (1 + decay) if lam > 0 else 1 / (1 + decay)


def add_noise(data: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    """z_t = (1 - t) data + t noise; `data` and `noise` (B, ...), `t` in [0, 1]. Gives the shape of `data`."""
    t = _per_sample(t, data)
    return (1 - t) * data + t * noise


def to_velocity(prediction: Tensor, z: Tensor, t: float | Tensor, prediction_type: PredictionType) -> Tensor:
    """The velocity that a network's `prediction` at (`z`, `t`) stands for, (B, ...).

    For `prediction_type="sample"` it is (z - prediction) / t, which has no value at t = 0: there a number
    raises ValueError, an entry of a tensor gives NaN or inf.
    """
    _check(prediction_type)
    if prediction_type == "flow_prediction":
        return prediction
    if not isinstance(t, Tensor) and t <= 0:
        raise ValueError(f"the velocity of a sample prediction needs a time above 0, not {t}")
    return (z - prediction) / _per_sample(t, z)


def to_sample(prediction: Tensor, z: Tensor, t: float | Tensor, prediction_type: PredictionType) -> Tensor:
    """The clean data that a network's `prediction` at (`z`, `t`) stands for, (B, ...): z - t v, or itself."""
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
    """`t` shaped (B, 1, 1, ...), so that it broadcasts over samples and not over the last axis."""
    if not isinstance(t, Tensor) or t.ndim == 0:
        return t
    if t.shape != like.shape[:1]:
        raise ValueError(f"times have shape {tuple(t.shape)}; one per sample, ({like.shape[0]},), is needed")
    return t.to(like.device).reshape(-1, *[1] * (like.ndim - 1))
