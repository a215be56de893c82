"""The sampler, a loop over pairs of times that solves dz/dt = v(z, t) from noise to data, and two solvers.

On the straight path both solvers are one formula. With x0 = z - s v the estimate of the data at time s, a
step from s to t < s is z_t = x + (t / s) (z_s - x), where x = x0 for Euler, and x = x0 extrapolated in
log-SNR for the second-order multistep DPM-Solver++ (arXiv 2211.01095, algorithm 2, midpoint form).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from linearsr.flow import Solver
from linearsr.flow.path import log_snr

Velocity = Callable[[Tensor, float], Tensor]
"""A function (z (B, ...), t in (0, 1]) -> velocity (B, ...)."""

_SHORT_LOOP = 15
"""With fewer steps, or at t = 0, DPM-Solver++ takes the last step at first order, as its authors advise."""


class Step(NamedTuple):
    """One step of a solver, between two times."""

    time: float
    reached: float
    extrapolation: float = 1.0
    """Weight of this step's estimate against the previous one; 1 uses this step's alone."""

    def advance(self, z: Tensor, x0: Tensor, before: Tensor | None) -> Tensor:
        """Return z at `reached`, from `z` and data estimate `x0` at `time` and the previous estimate."""
        # flow step: move z on the straight line to the data; at second order, extrapolate the data first
        x = x0 if before is None else torch.lerp(before, x0, self.extrapolation)
        return torch.lerp(x, z, self.reached / self.time)


def plan(times: Sequence[float], solver: Solver = "dpmsolver++") -> list[Step]:
    """Return the steps from `times[0]` to `times[-1]`, which must fall strictly inside [0, 1].

    Raises ValueError: invalid times, or an unknown solver.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"solver {solver!r} is not one of {', '.join(get_args(Solver))}")
    inside = all(0 <= t <= 1 for t in times)
    if len(times) < 2 or not inside or any(s <= t for s, t in pairwise(times)):
        raise ValueError(f"times must be two or more, falling strictly inside [0, 1], not {list(times)}")
    steps = [Step(s, t) for s, t in pairwise(times)]
    first_order_end = times[-1] == 0 or len(steps) < _SHORT_LOOP
    if solver == "dpmsolver++":
        for i in range(1, len(steps) - first_order_end):
            before, now, after = map(log_snr, times[i - 1 : i + 2])
            # 0 if the previous step began at t = 1, where log-SNR is -inf: pure noise extrapolates nothing
            ratio = 0.5 * (after - now) / (now - before)
            steps[i] = steps[i]._replace(extrapolation=1 + ratio)
    return steps


def sample(velocity: Velocity, z: Tensor, times: Sequence[float], solver: Solver = "dpmsolver++") -> Tensor:
    """Integrate the flow from `z` (B, ...) at `times[0]` to `times[-1]`, one velocity evaluation per step.

    `times` fall strictly inside [0, 1]; t = 1 is pure noise, and t = 0 gives the last estimate of the data
    itself. The state is kept and returned in float32 (float64 if `z` is), whatever the velocity's dtype.
    Gradients are kept: call it under `torch.inference_mode()` when none are wanted. Raises ValueError for
    other times or an unknown solver.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    before: Tensor | None = None
    for step in plan(times, solver):
        x0 = z - step.time * velocity(z, step.time).to(z.dtype)
        z, before = step.advance(z, x0, before), x0
    return z


def timesteps(num: int, shift: float = 1.0) -> list[float]:
    """Return `num` + 1 times from exactly 1 to exactly 0: uniform t, shifted to t' = s t / (1 + (s - 1) t).

    `shift` s > 1 spends more steps near the noise (arXiv 2403.03206, eq. 23; SANA uses 3). Raises ValueError
    unless `num` >= 1 and `shift` > 0.
    """
    if num < 1:
        raise ValueError(f"the number of steps must be 1 or more, not {num}")
    if not shift > 0:
        raise ValueError(f"shift must be above 0, not {shift}")
    uniform = [1 - i / num for i in range(num + 1)]
    # Written so that both ends are exact: the usual 1 + (s - 1) t may round t = 1 to above 1.
    return [shift * t / (shift * t + (1 - t)) for t in uniform]


def initial_noise(
    shape: Sequence[int], seed: int | Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return standard normal noise of `shape` (B, ...), in float32, on `device`.

    Each image has its own generator, on the CPU, so its noise depends on its seed and size only: not on the
    device, nor on its place in a batch. A single seed gives every image the same noise; a sequence must have
    one seed per image, else ValueError is raised.
    """
    batch, *rest = shape
    seeds = [seed] * batch if isinstance(seed, int) else list(seed)
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} images: give one seed, or one for each image")
    noise = torch.empty(batch, *rest)
    for image, image_seed in zip(noise, seeds, strict=True):
        image.normal_(generator=torch.Generator().manual_seed(image_seed))
    return noise.to(device)
