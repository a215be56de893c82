"""The straight path from data (t = 0) to noise (t = 1), and what a network may predict on it.

z_t = (1 - t) data + t noise, so dz/dt = v = noise - data, data = z - t v. Times are a number or one per
sample, (B,); tensors are (B, ...).
"""

from typing import Literal, get_args

from torch import Tensor

PredictionType = Literal["flow_prediction", "sample"]
"""What a network's output is: the velocity v = noise - data, or the clean data itself."""


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
