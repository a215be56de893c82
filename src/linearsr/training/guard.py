"""The divergence guard, which notices within a step that training goes wrong, and decides what to do.

A bad step is skipped: the weights stay as they are. When there are many bad steps, the weights themselves
have gone wrong, and the run returns to its last checkpoint with a lower learning rate, a limited number of
times. No checkpoint is written before the steps are calm again, so that the run returns to sound weights.
"""

import math
from collections import deque
from collections.abc import Iterable
from itertools import islice
from statistics import median
from typing import Literal

from pydantic import Field, model_validator

from linearsr.training.section import Section

Verdict = Literal["good", "skip", "roll back"]

_LEAST_USUAL = 1e-3
"""Lower bound of the usual loss and norm: near zero, e.g. with photos of one colour, ratios mean nothing."""


class GuardConfig(Section):
    """The definition of a bad step, and how many are allowed."""

    loss_factor: float = Field(8.0, gt=1)
    """A loss above this many times the lowest median so far is bad; a slow rise gets there too."""
    grad_norm_factor: float = Field(30.0, gt=1)
    """The same factor for the norm of the gradient before clipping."""
    window: int = Field(100, ge=10)
    """Number of good steps that the median covers, and of steps among which bad ones are counted."""
    max_bad_steps: int = Field(10, ge=1)
    """Bad steps allowed among the last `window`; one more sends the run back to its checkpoint."""
    max_rollbacks: int = Field(3, ge=0)
    """Returns to a checkpoint before the run is given up."""
    lr_factor: float = Field(0.5, gt=0, lt=1)
    """Factor of the learning rate at each return."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> "GuardConfig":
        if self.max_bad_steps >= self.window:
            raise ValueError(
                f"max_bad_steps {self.max_bad_steps} can never be passed among {self.window} steps: make window larger"
            )
        return self


class Diverged(RuntimeError):
    """Raised when training diverges more often than allowed; the message says what to do."""


class DivergenceGuard:
    """A judge of the steps of one run, in order; every process of a run must pass the same figures.

    It compares by ratio, so losses must not be negative.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.remember(())

    def remember(self, steps: Iterable[tuple[float, float, bool]]) -> None:
        """Reset, then replay the (loss, gradient norm, was bad) of earlier steps, when a run is resumed."""
        self._losses: deque[float] = deque(maxlen=self.config.window)
        self._norms: deque[float] = deque(maxlen=self.config.window)
        self._bad: deque[bool] = deque(maxlen=self.config.window)
        self._usual_loss = self._usual_norm = math.inf
        for loss, grad_norm, bad in steps:
            self._record(loss, grad_norm, bad)

    @property
    def calm(self) -> bool:
        """Whether the latest steps were good, so that a checkpoint may be written."""
        apart = self.config.window // (self.config.max_bad_steps + 1)
        return not any(islice(reversed(self._bad), apart))

    def judge(self, loss: float, grad_norm: float) -> tuple[Verdict, str]:
        """Return the verdict on a step, before its update is applied, and the reason ("" if it is good)."""
        trouble = self._trouble(loss, grad_norm)
        self._record(loss, grad_norm, bool(trouble))
        if not trouble:
            return "good", ""
        return ("roll back" if sum(self._bad) > self.config.max_bad_steps else "skip"), trouble

    def _trouble(self, loss: float, grad_norm: float) -> str:
        for name, value, usual, factor in (
            ("loss", loss, self._usual_loss, self.config.loss_factor),
            ("gradient norm", grad_norm, self._usual_norm, self.config.grad_norm_factor),
        ):
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value > factor * usual:
                return f"{name} {value:.3g} is {value / usual:.0f} times the usual {usual:.3g}"
        return ""

    def _record(self, loss: float, grad_norm: float, bad: bool) -> None:
        self._bad.append(bad)
        if bad:
            return
        self._losses.append(loss)
        self._norms.append(grad_norm)
        if len(self._losses) >= self.config.window // 10:
            self._usual_loss = min(self._usual_loss, max(median(self._losses), _LEAST_USUAL))
            self._usual_norm = min(self._usual_norm, max(median(self._norms), _LEAST_USUAL))
