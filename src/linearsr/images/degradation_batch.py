"""The degradation of `degradation.py` for a batch on any device: same presets and ranges, other random numbers.

A sample's draws come from its own generator, so its LR image does not depend on what else is in the batch. Samples
differ in size after the first resize; they lie in the upper left corners of one canvas. Blur and JPEG, the costly
parts, are computed for all of them at once, resizing and noise one by one, effects one by one on the CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from linearsr.images.degradation import (
    MODES,
    Degradation,
    Order,
    draw_blur,
    draw_factor,
    draw_filter,
    draw_quality,
    draw_ringing,
    scaled,
)
from linearsr.images.degradation_effects import Effect, apply_effects
from linearsr.images.jpeg import jpeg, take_pixels
from linearsr.images.kernels import Kernel
from linearsr.images.resize import resize

_RADIUS = 10
"""Of the largest kernel."""

Size = tuple[int, int]


@dataclass(frozen=True)
class _Round:
    """What one `Order` does to one sample."""

    kernel: Kernel | None
    factor: float
    mode: str
    gray: bool
    gaussian: bool
    strength: float
    noise_seed: int
    quality: int | None
    """Of JPEG; None: it is not compressed."""


@dataclass(frozen=True)
class _Plan:
    """All that happens to one sample."""

    rounds: list[_Round]
    jpeg_before_resize: bool
    mode: str
    ringing: Kernel | None


@dataclass
class _Canvas:
    """Images of several sizes: image i fills the upper left `sizes[i]` of `pixels[i]`, (3, H, W) in [0, 1]."""

    pixels: Tensor
    sizes: list[Size]

    def sizes_of(self, which: Sequence[int]) -> Tensor:
        return torch.tensor([self.sizes[i] for i in which], device=self.pixels.device)

    def image(self, i: int) -> Tensor:
        height, width = self.sizes[i]
        return self.pixels[i, :, :height, :width]


@torch.no_grad()
def degrade_batch(
    hr: Tensor, degradation: Degradation, rngs: Sequence[np.random.Generator], scale: int = 4
) -> Tensor:
    """Degrade a batch of HR images of one size.

    Args:
        hr: (B, 3, H, W) float32 in [0, 1]; H and W multiples of `scale`.
        degradation: what to do, e.g. `PRESETS["mild"]`.
        rngs: B generators, one for each image.
        scale: ratio of the HR to the LR size.

    Returns:
        (B, 3, H / scale, W / scale) float32 in [0, 1], on the 8-bit grid, on the device of `hr`.

    Raises:
        ValueError: H or W is no multiple of `scale`.
    """
    height, width = hr.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"HR size {width}x{height} is no multiple of {scale}: crop the images first")
    lr_size = (height // scale, width // scale)
    if not degradation.orders:
        modes = [draw_filter(degradation, rng) for rng in rngs]
        lr = hr.new_empty(*hr.shape[:2], *lr_size)
        for mode in dict.fromkeys(modes):
            which = [i for i, its_mode in enumerate(modes) if its_mode == mode]
            lr[which] = resize(hr[which], lr_size, mode)
        return _to_8_bit(lr)
    # training may run this inside its own autocast, and bfloat16 has fewer levels than an 8-bit image
    with torch.autocast(hr.device.type, enabled=False):
        canvas = _Canvas(hr.float(), [(height, width)] * len(hr))
        if degradation.effects:
            canvas = _affected(canvas, degradation.effects, rngs, lr_size)
        return _degrade(canvas, [_draw_plan(degradation, rng) for rng in rngs], lr_size)


def _affected(
    canvas: _Canvas, effects: Sequence[Effect], rngs: Sequence[np.random.Generator], lr_size: Size
) -> _Canvas:
    images = [
        apply_effects(image[None], effects, lr_size, rng)[0]
        for image, rng in zip(canvas.pixels.cpu(), rngs, strict=True)
    ]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    heights, widths = zip(*sizes, strict=True)
    affected = _Canvas(torch.zeros(len(images), 3, max(heights), max(widths)), sizes)
    for i, image in enumerate(images):
        affected.image(i).copy_(image)
    affected.pixels = affected.pixels.to(canvas.pixels.device)
    return affected


def _degrade(canvas: _Canvas, plans: list[_Plan], lr_size: Size) -> Tensor:
    last = len(plans[0].rounds) - 1
    everyone = range(len(plans))
    for number in range(last + 1):
        rounds = [plan.rounds[number] for plan in plans]
        before = [lr_size] * len(plans) if number == last else canvas.sizes
        sizes = [scaled(size, step.factor) for size, step in zip(before, rounds, strict=True)]
        _filter(canvas, [step.kernel for step in rounds])
        canvas = _resize(canvas, sizes, [step.mode for step in rounds])
        _add_noise(canvas, rounds)
        if number < last:
            _compress(canvas, rounds, everyone)
    _compress(canvas, rounds, [i for i in everyone if plans[i].jpeg_before_resize])
    canvas = _resize(canvas, [lr_size] * len(plans), [plan.mode for plan in plans])
    _filter(canvas, [plan.ringing for plan in plans])
    _compress(canvas, rounds, [i for i in everyone if not plans[i].jpeg_before_resize])
    return _to_8_bit(canvas.pixels)


def _draw_plan(degradation: Degradation, rng: np.random.Generator) -> _Plan:
    return _Plan(
        rounds=[_draw_round(order, rng) for order in degradation.orders],
        jpeg_before_resize=rng.random() < 0.5,
        mode=MODES[rng.integers(len(MODES))],
        ringing=draw_ringing(degradation.final_sinc_prob, rng),
    )


def _draw_round(order: Order, rng: np.random.Generator) -> _Round:
    gaussian = rng.random() < order.gaussian_noise_prob
    return _Round(
        kernel=draw_blur(order, rng),
        factor=draw_factor(order, rng),
        mode=MODES[rng.integers(len(MODES))],
        gray=rng.random() < order.gray_noise_prob,
        gaussian=gaussian,
        strength=rng.uniform(*order.noise_range) / 255 if gaussian else rng.uniform(*order.poisson_scale),
        noise_seed=int(rng.integers(2**63)),
        quality=draw_quality(order, rng),
    )


def _to_8_bit(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round() / 255


def _filter(canvas: _Canvas, kernels: list[Kernel | None]) -> None:
    chosen = {i: kernel for i, kernel in enumerate(kernels) if kernel is not None}
    if not chosen:
        return
    which = list(chosen)
    height, width = canvas.pixels.shape[-2:]
    sizes = canvas.sizes_of(which)
    rows, columns = (_reflected(sizes[:, axis], length) for axis, length in enumerate((height, width)))
    padded = take_pixels(canvas.pixels[which], rows, columns)
    weight = torch.from_numpy(np.stack([_padded(kernel) for kernel in chosen.values()])).to(padded.device)
    groups = 3 * len(which)
    weight = weight[:, None, None].expand(-1, 3, -1, -1, -1).reshape(groups, 1, *weight.shape[-2:])
    blurred = F.conv2d(padded.reshape(1, groups, *padded.shape[-2:]), weight, groups=groups)
    canvas.pixels = canvas.pixels.index_copy(
        0, torch.tensor(which, device=padded.device), blurred.view(len(which), 3, height, width)
    )


def _reflected(lengths: Tensor, total: int) -> Tensor:
    """(B, total + 2 radius) places to read along one axis: mirrored at both ends, as far as there are pixels."""
    places = torch.arange(-_RADIUS, total + _RADIUS, device=lengths.device)
    end = lengths[:, None] - 1
    return torch.minimum((end - (end - places.abs()).abs()).clamp(min=0), end)


def _padded(kernel: Kernel) -> NDArray[np.float32]:
    return np.pad(kernel, _RADIUS - kernel.shape[0] // 2)


def _resize(canvas: _Canvas, sizes: list[Size], modes: list[str]) -> _Canvas:
    heights, widths = zip(*sizes, strict=True)
    resized = _Canvas(canvas.pixels.new_zeros(len(sizes), 3, max(heights), max(widths)), sizes)
    for i, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
        image = canvas.image(i)
        resized.image(i).copy_(
            image if size == canvas.sizes[i] else F.interpolate(image[None], size=size, mode=mode)[0]
        )
    return resized


def _add_noise(canvas: _Canvas, rounds: list[_Round]) -> None:
    canvas.pixels = canvas.pixels.clamp(0, 1)
    for i, step in enumerate(rounds):
        image = canvas.image(i)
        rng = torch.Generator(image.device).manual_seed(step.noise_seed)
        channels = 1 if step.gray else 3
        if step.gaussian:
            noise = torch.randn((channels, *image.shape[1:]), generator=rng, device=image.device)
        else:
            noise = _poisson(image.mean(dim=0, keepdim=True) if step.gray else image, rng)
        image.copy_((image + noise * step.strength).clamp(0, 1))


def _poisson(image: Tensor, rng: torch.Generator) -> Tensor:
    """Shot noise, as `degradation.py` has it; counts the grey levels without waiting for the device."""
    seen = torch.zeros(256, device=image.device)
    seen[(image * 255).round().long().flatten()] = 1
    photons = 2 ** seen.sum().clamp(min=2).log2().ceil()
    rates = image * photons
    if rates.device.type == "mps":  # which cannot draw it
        on_cpu = torch.Generator().manual_seed(rng.initial_seed())
        return torch.poisson(rates.cpu(), generator=on_cpu).to(rates.device) / photons - image
    return torch.poisson(rates, generator=rng) / photons - image


def _compress(canvas: _Canvas, rounds: list[_Round], which: Sequence[int]) -> None:
    qualities = {i: quality for i in which if (quality := rounds[i].quality) is not None}
    if not qualities:
        return
    device = canvas.pixels.device
    index = torch.tensor(list(qualities), device=device)
    at = torch.tensor(list(qualities.values()), device=device)
    decoded = jpeg(canvas.pixels[index], canvas.sizes_of(list(qualities)), at)
    canvas.pixels = canvas.pixels.index_copy(0, index, decoded)
