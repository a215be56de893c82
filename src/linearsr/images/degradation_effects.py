"""Effects of a camera and of sharing on a photo: a shaking hand, a small sensor, its software, and reposts.

An effect is called with an image (1, 3, H, W) in [0, 1], the size (height, width) of the LR image to be made
of it, and a generator for all random choices. It returns an image in [0, 1], of another size if its class
says so. Lengths are in LR pixels, because those are the pixels that the user sees, unless stated otherwise.
"""

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Size = tuple[int, int]
Range = tuple[float, float]

GAMMA = 2.2
"""Gamma of a display: light = value ** GAMMA, which is close enough for noise and shadows."""


class Effect(ABC):
    """The base class of everything that may happen to an image before the rounds."""

    @abstractmethod
    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor: ...


def to_pillow(image: Tensor) -> Image.Image:
    """Convert a tensor (1, 3, H, W) in [0, 1] to a Pillow image, rounded to 8 bits."""
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.contiguous().cpu().numpy())


def from_pillow(image: Image.Image) -> Tensor:
    """Convert an 8-bit RGB image of Pillow to a tensor (1, 3, H, W) in [0, 1]."""
    unit = np.asarray(image, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(unit).permute(2, 0, 1)[None]


def compress(image: Tensor, quality: int) -> Tensor:
    """Encode (1, 3, H, W) in [0, 1] as JPEG with halved colour resolution, and decode it again."""
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return from_pillow(Image.open(file))


@dataclass(frozen=True, kw_only=True)
class Shake(Effect):
    """Motion blur: the mean of the image along the path of a moving hand while the shutter is open."""

    prob: float = 0.5
    """Probability of motion blur: half of all handheld shots are lucky."""
    length: Range = (1.0, 6.0)
    """Length of the path in LR pixels. Below one, nothing is visible; above six, little can be restored."""
    turn: float = 1.0
    """Largest change of direction in radians, to either side: shakes are arcs, seldom loops."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.prob:
            return image
        length = rng.uniform(*self.length) * lr_pixel(image, lr_size)
        steps = max(2, math.ceil(length / 2) + 1)
        angles = rng.uniform(0, 2 * np.pi) + rng.uniform(-self.turn, self.turn) * np.linspace(0, 1, steps)
        path = np.cumsum(np.stack([np.sin(angles), np.cos(angles)]), axis=1) * length / steps
        path = (path - path.mean(axis=1, keepdims=True)).round().astype(int)
        pad = int(np.abs(path).max())
        height, width = image.shape[-2:]
        padded = F.pad(image, (pad,) * 4, mode="replicate")
        total = torch.zeros_like(image)
        for y, x in path.T + pad:
            total += padded[..., y : y + height, x : x + width]
        return total / steps


@dataclass(frozen=True, kw_only=True)
class Resample(Effect):
    """A resize to the LR size times a factor: a camera with fewer pixels, a digital zoom, a screen's size."""

    factor: Range

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        factor = rng.uniform(*self.factor)
        height, width = (max(1, round(side * factor)) for side in lr_size)
        if (height, width) == tuple(image.shape[-2:]):
            return image
        if height < image.shape[-2]:
            # each pixel of a sensor gathers the light on its area
            return F.interpolate(image, size=(height, width), mode="area")
        return F.interpolate(image, size=(height, width), mode="bicubic").clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class SensorNoise(Effect):
    """Noise of a sensor. Its variance grows with the light (Foi et al. 2008). Its colours are coarser than
    its brightness, because a pixel sees one colour and takes the others from its neighbours."""

    photons: Range
    """Number of photons in a white pixel, drawn on a logarithmic scale: over 10,000 in a good camera in the
    sun, some tens in a phone at night."""
    read: Range = (0.001, 0.008)
    """Noise of the electronics, as a share of white; it remains in the shadows."""
    chroma: Range = (0.2, 1.2)
    """Coarse colour noise as a multiple of the fine noise: blotches that survive denoising."""
    darker: Range = (1.0, 1.0)
    """Exponent on the values, which makes the picture darker than the scene; 1: not at all. It is kept low,
    because an upscaler should not relight a photo."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        values = image.clamp(0, 1).numpy() ** np.float32(rng.uniform(*self.darker))
        photons = math.exp(rng.uniform(*np.log(self.photons)))
        light = values**GAMMA
        deviation = np.sqrt(light / photons + rng.uniform(*self.read) ** 2)
        # the display's curve amplifies noise in shadows; its slope at black is limited to that at 2% light
        slope = np.maximum(light, 0.02) ** (1 / GAMMA - 1) / GAMMA
        height, width = values.shape[-2:]
        # most noise is common to the three colours, because each pixel's brightness comes from one reading
        fine = 0.6 * rng.standard_normal((1, 3, height, width), dtype=np.float32)
        fine += 0.8 * rng.standard_normal((1, 1, height, width), dtype=np.float32)
        coarse = rng.standard_normal((1, 3, height // 3 + 1, width // 3 + 1), dtype=np.float32)
        coarse -= coarse.mean(axis=1, keepdims=True)
        spread = F.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bilinear").numpy()
        noise = (fine + spread * rng.uniform(*self.chroma)) * deviation * slope
        return torch.from_numpy(np.clip(values + noise, 0, 1).astype(np.float32))


@dataclass(frozen=True, kw_only=True)
class Smear(Effect):
    """Strong denoising by a phone: a guided filter (He et al. 2010) keeps edges but removes texture, and
    colours are blurred more widely than brightness."""

    prob: float = 0.7
    """Probability of denoising; the other pictures show their noise."""
    radius: tuple[int, int] = (1, 3)
    """Radius of the window, in pixels of the sensor; slow processors had time only for small windows."""
    strength: Range = (0.02, 0.12)
    """Standard deviation below which texture is removed as noise; 0.1 gives the look of a painting."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.prob:
            return image
        radius = int(rng.integers(self.radius[0], self.radius[1] + 1))
        threshold = rng.uniform(*self.strength) ** 2
        grey = image.mean(dim=1, keepdim=True)
        colour = _box(image - grey, 2 * radius)
        mean = _box(grey, radius)
        variance = _box(grey * grey, radius) - mean**2
        gain = variance / (variance + threshold)
        smeared = _box(gain, radius) * grey + _box((1 - gain) * mean, radius)
        return (smeared + colour).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Sharpen(Effect):
    """Unsharp masking by a camera or a scanner: bright and dark halos along edges."""

    prob: float = 0.8
    amount: Range = (0.3, 1.8)
    """Factor of the detail that is added: 0.5 looks crisp, 1.5 shows halos."""
    radius: Range = (0.6, 1.6)
    """Standard deviation of the mask's blur, in pixels of the image at this point: the width of the halos."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        if rng.random() >= self.prob:
            return image
        detail = image - _blurred(image, rng.uniform(*self.radius))
        return (image + rng.uniform(*self.amount) * detail).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Reposts(Effect):
    """Repeated sharing: sent on, saved again, captured from a screen, each time in another size and JPEG."""

    times: tuple[int, int] = (1, 4)
    factor: Range = (0.75, 1.3)
    """Size relative to the first one: screens differ, and shrinking each time would leave nothing."""
    quality: tuple[int, int] = (25, 85)
    """JPEG quality: that of messengers and social networks, and somewhat less."""
    sharpen: Sharpen = Sharpen(prob=0.3, amount=(0.3, 1.0), radius=(0.6, 1.0))
    """Sharpening, which some apps apply after a resize."""

    def __call__(self, image: Tensor, lr_size: Size, rng: np.random.Generator) -> Tensor:
        start = image.shape[-2:]
        for _ in range(int(rng.integers(self.times[0], self.times[1] + 1))):
            factor = rng.uniform(*self.factor)
            size = [max(1, round(side * factor)) for side in start]
            mode = ("nearest", "bilinear", "bicubic", "area")[rng.choice(4, p=(0.1, 0.4, 0.3, 0.2))]
            image = F.interpolate(image, size=size, mode=mode).clamp(0, 1)
            image = self.sharpen(image, lr_size, rng)
            image = compress(image, int(rng.integers(self.quality[0], self.quality[1] + 1)))
        return image


def lr_pixel(image: Tensor, lr_size: Size) -> float:
    """Return the side of an LR pixel in pixels of the image."""
    return image.shape[-2] / lr_size[0]


def _box(image: Tensor, radius: int) -> Tensor:
    """Return the mean over a window, which holds fewer pixels at the border."""
    return F.avg_pool2d(image, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    taps = np.arange(-math.ceil(2 * sigma), math.ceil(2 * sigma) + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    row = torch.from_numpy((weights / weights.sum()).astype(np.float32)).expand(3, 1, 1, -1)
    pad = len(taps) // 2
    for kernel, padding in ((row, (pad, pad, 0, 0)), (row.transpose(2, 3), (0, 0, pad, pad))):
        image = F.conv2d(F.pad(image, padding, mode="replicate"), kernel, groups=3)
    return image
