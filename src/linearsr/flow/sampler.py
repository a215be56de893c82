"""From noise to data: the loop over pairs of times that solves dz/dt = v(z, t), and its two solvers.

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
"""(z (B, ...), t in (0, 1]) -> velocity (B, ...)."""

_SHORT_LOOP = 15
"""With fewer steps DPM-Solver++ takes the last one at first order, as its authors advise; at t = 0 always."""


class Step(NamedTuple):
    """One pair of times, and how the solver goes from the first to the second."""

    time: float
    reached: float
    extrapolation: float = 1.0
    """How far to go from the estimate before to this step's; 1: to this step's and no further."""

    def advance(self, z: Tensor, x0: Tensor, before: Tensor | None) -> Tensor:
        """z at `reached` from `z` at `time`, the estimate `x0` of the data there, and that of the step before."""
        # flow step: on the straight line from z to the data, as far as the time goes; second order leads the data on
        x = x0 if before is None else torch.lerp(before, x0, self.extrapolation)
        return torch.lerp(x, z, self.reached / self.time)


def plan(times: Sequence[float], solver: Solver = "dpmsolver++") -> list[Step]:
    """The steps from `times[0]` to `times[-1]`, falling strictly inside [0, 1].

    Raises ValueError: other times, or another solver.
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
            # from before = 1, an infinitely long step, this is 0: pure noise extrapolates nothing
            ratio = 0.5 * (after - now) / (now - before)
            steps[i] = steps[i]._replace(extrapolation=1 + ratio)
    return steps


def sample(velocity: Velocity, z: Tensor, times: Sequence[float], solver: Solver = "dpmsolver++") -> Tensor:
    """Carry `z` (B, ...) at `times[0]` along the flow to `times[-1]`; one velocity evaluation for each step.

    `times` fall strictly inside [0, 1]; t = 1 is pure noise and t = 0 gives the last estimate of the data
    itself. The state is kept in float32 (float64 if `z` is), whatever the velocity's dtype, and returned so.
    Gradients are kept: call it under `torch.inference_mode()` when none are wanted. ValueError for other times or
    another solver.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    before: Tensor | None = None
    for step in plan(times, solver):
        x0 = z - step.time * velocity(z, step.time).to(z.dtype)
        z, before = step.advance(z, x0, before), x0
    return z


def timesteps(num: int, shift: float = 1.0) -> list[float]:
    """The `num` + 1 times from exactly 1 to exactly 0: uniform, then t' = s t / (1 + (s - 1) t).

    `shift` s > 1 spends more steps near the noise (arXiv 2403.03206, eq. 23; SANA uses 3). ValueError unless
    `num` >= 1 and `shift` > 0.
    """
    if num < 1:
        raise ValueError(f"the number of steps must be 1 or more, not {num}")
    if not shift > 0:
        raise ValueError(f"shift must be above 0, not {shift}")
    uniform = [1 - i / num for i in range(num + 1)]
    # Written so that both ends come out exact: the usual 1 + (s - 1) t may round t = 1 to above 1.
    return [shift * t / (shift * t + (1 - t)) for t in uniform]


def initial_noise(
    shape: Sequence[int], seed: int | Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal noise of `shape` (B, ...), float32, on `device`.

    Each image has its own generator, on the CPU, so its noise depends on its seed and size only: not on the
    device, nor on its place in a batch. One number seeds every image alike; a sequence has one seed an image,
    else ValueError.
    """
    batch, *rest = shape
    seeds = [seed] * batch if isinstance(seed, int) else list(seed)
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} images: give one seed, or one for each image")
    noise = torch.empty(batch, *rest)
    for image, image_seed in zip(noise, seeds, strict=True):
        image.normal_(generator=torch.Generator().manual_seed(image_seed))
    return noise.to(device)
