"""Effects on a photo on paper: old dyes, the dots of a press, dust, scratches, and the light of its scan."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.images.degradation_effects import Effect, Range, Size, lr_pixel


@dataclass(frozen=True, kw_only=True)
class Halftone(Effect):
    """The dots of a printed picture: a screen for each colour, turned by the printer's angles, blurred by the
    ink. A later resize without antialiasing leaves a slight moire, as a scanner does."""

    prob: float = 0.35
    """Probability of dots: photographs have none; pictures from books, cards and newspapers have."""
    pitch: Range = (1.3, 2.8)
    """Dot pitch in LR pixels: 150 lines per inch (a magazine) scanned at 200 dpi, to 110 at 300 dpi."""
    strength: Range = (0.05, 0.35)
    """Contrast of the dots, most of which ink and scanner have blurred away."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.prob:
            return image
        wave = 2 * np.pi / (rng.uniform(*self.pitch) * lr_pixel(image, lr_size))
        y, x = (torch.arange(side, dtype=torch.float32) for side in image.shape[-2:])
        first, strength = rng.uniform(0, np.pi / 2), rng.uniform(*self.strength)
        screens = []
        for angle in first + np.radians((15.0, 75.0, 45.0)):
            across, down = wave * math.cos(angle), wave * math.sin(angle)
            phase = rng.uniform(0, 2 * np.pi, 2)
            # the cosine of a sum of row and column by products, which saves a cosine for each pixel
            screens.append(_wave(y * down, x * across, phase[0]) + _wave(y * across, -x * down, phase[1]))
        threshold = 0.5 + torch.stack(screens)[None] / 4
        dots = ((image - threshold) * 4 + 0.5).clamp(0, 1)
        return torch.lerp(image, dots, strength)


@dataclass(frozen=True, kw_only=True)
class Fading(Effect):
    """Old dyes and old paper: blacks turn grey, whites yellow, colours pale."""

    black: Range = (0.0, 0.12)
    """Value added to the blacks of each colour."""
    white: Range = (0.82, 1.0)
    """Value to which white fades in each colour; the lowest of the three is for blue, since paper yellows."""
    pale: Range = (0.0, 0.35)
    """Share of the colour that is lost. All three ranges are kept small: an upscaler should cope with faded
    photos, but not recolour them."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        black = rng.uniform(self.black[0], rng.uniform(*self.black), 3)
        white = np.sort(rng.uniform(rng.uniform(*self.white), self.white[1], 3))[::-1]
        low, high = (torch.tensor(v.copy(), dtype=torch.float32).view(1, 3, 1, 1) for v in (black, white))
        grey = image.mean(dim=1, keepdim=True)
        return low + (high - low) * torch.lerp(image, grey, rng.uniform(*self.pale))


@dataclass(frozen=True, kw_only=True)
class Paper(Effect):
    """Paper in the light of a scanner or a window: grain, and brightness that falls off to one side."""

    grain: Range = (0.0, 0.035)
    """Standard deviation of the paper's brightness, from glossy to silk."""
    size: Range = (1.0, 3.0)
    """Size of a grain in LR pixels."""
    falloff: Range = (0.0, 0.2)
    """Share of the light that is missing at one end of the picture compared with the other."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        height, width = image.shape[-2:]
        cell = rng.uniform(*self.size) * lr_pixel(image, lr_size)
        cells = (1, 1, math.ceil(height / cell) + 1, math.ceil(width / cell) + 1)
        grain = torch.from_numpy(rng.standard_normal(cells, dtype=np.float32)) * rng.uniform(*self.grain)
        paper = 1 + F.interpolate(grain, size=(height, width), mode="bilinear")
        angle = rng.uniform(0, 2 * np.pi)
        down = torch.linspace(-0.5, 0.5, height)[:, None] * math.sin(angle)
        across = torch.linspace(-0.5, 0.5, width) * math.cos(angle)
        light = 1 - rng.uniform(*self.falloff) * (0.5 + (down + across) / math.sqrt(2))
        return (image * paper * light).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Dust(Effect):
    """Specks, hairs and scratches on a print or on the glass, bright or dark, soft at their border."""

    density: Range = (0.0, 8e-4)
    """Specks per LR pixel: up to three on a crop of 64x64."""
    radius: Range = (0.3, 1.2)
    """Radius of a speck in LR pixels."""
    scratch_share: float = 0.15
    """Share of specks that are long and thin: hairs and scratches."""
    length: Range = (6.0, 40.0)
    """Length of a scratch in LR pixels."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        pixel = lr_pixel(image, lr_size)
        image = image.clone()
        for _ in range(rng.poisson(rng.uniform(*self.density) * lr_size[0] * lr_size[1])):
            self._draw(image, pixel, rng)
        return image

    def _draw(self, image: Tensor, pixel: float, rng: np.random.Generator) -> None:
        height, width = image.shape[-2:]
        radius = rng.uniform(*self.radius) * pixel
        start = rng.uniform(0, 1, 2) * (height, width)
        step = np.zeros(2)
        if rng.random() < self.scratch_share:
            angle = rng.uniform(0, 2 * np.pi)
            step = np.array([math.sin(angle), math.cos(angle)]) * rng.uniform(*self.length) * pixel
            radius *= 0.4
        colour, cover = float(rng.random() < 0.7), rng.uniform(0.3, 0.9)
        low = np.floor(np.minimum(start, start + step) - radius).astype(int).clip(0)
        high = np.ceil(np.maximum(start, start + step) + radius).astype(int) + 1
        high = np.minimum(high, (height, width))
        if (high <= low).any():
            return
        y = np.arange(low[0], high[0])[:, None] - start[0]
        x = np.arange(low[1], high[1]) - start[1]
        along = np.clip((y * step[0] + x * step[1]) / max(step @ step, 1e-9), 0, 1)
        distance = np.hypot(y - along * step[0], x - along * step[1])
        alpha = cover * np.clip(1.5 - 1.5 * distance / radius, 0, 1)
        part = image[..., low[0] : high[0], low[1] : high[1]]
        part.lerp_(torch.full_like(part, colour), torch.from_numpy(alpha.astype(np.float32)))


def _wave(down: Tensor, across: Tensor, phase: float) -> Tensor:
    """Return cos(down + across + phase) for each row and column: (H,) and (W,) -> (H, W)."""
    return (down + phase).cos()[:, None] * across.cos() - (down + phase).sin()[:, None] * across.sin()
