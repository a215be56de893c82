"""What samples are judged by: losses by formula, and a network that learns to tell photos from samples.

Images are (B, 3, H, W) in [-1, 1]; every loss by formula is a scalar, 0 for equal images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from linearsr.evaluation.haarpsi import haarpsi_values
from linearsr.evaluation.metrics import ms_ssim_values
from linearsr.runtime.checkpoints import PretrainedModule

_WINDOW = 32
_BESIDE = 3
"""Frequencies from a harmonic to those it is compared with: beyond what the Hann window spreads."""


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (image - reference).abs().mean()


def gradient(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, down and to the right."""
    error = image - reference
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def focal_frequency(image: Tensor, reference: Tensor) -> Tensor:
    """Squared error of the spectrum, each frequency weighted by its own error (Jiang et al. 2021, eq. 8; alpha 1)."""
    error: Tensor = torch.fft.fft2((image - reference).float(), norm="ortho").abs()
    weight = error.detach()
    weight = weight / weight.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-8)
    return (weight * error.square()).mean()


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """1 - MS-SSIM on Y, over as many of its five scales as the images have room for."""
    return 1 - ms_ssim_values(_unit(image), _unit(reference), all_scales=False).mean()


def haarpsi(image: Tensor, reference: Tensor) -> Tensor:
    """1 - HaarPSI."""
    return 1 - haarpsi_values(_unit(image), _unit(reference)).mean()


def grid(image: Tensor, reference: Tensor) -> Tensor:
    """How much more of the error has a period of 4 pixels, or a part of it, than has periods nearby: the patches' mesh.

    Networks make an image from patches, and what they invent easily takes on the patches' period; the error of a photo
    prefers none. Measured by the amplitudes of the Fourier transform in windows of 32x32 pixels, whatever the phase;
    rows and columns that fill no window are left out.
    """
    error = (image - reference).float()
    windows = error.unfold(2, _WINDOW, _WINDOW).unfold(3, _WINDOW, _WINDOW)
    hann = torch.hann_window(_WINDOW, device=error.device)
    amplitude = torch.fft.fft2(windows * hann[:, None] * hann, norm="ortho").abs()
    harmonics = torch.arange(_WINDOW // 4, _WINDOW, _WINDOW // 4, device=error.device)

    def excess(axis: int) -> Tensor:
        beside = sum(amplitude.index_select(axis, harmonics + shift) for shift in (-_BESIDE, _BESIDE))
        return F.relu(amplitude.index_select(axis, harmonics) - beside / 2).mean()

    return excess(-1) + excess(-2)


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    loss.__name__: loss for loss in (l1, gradient, focal_frequency, ms_ssim, haarpsi, grid)
}
"""By the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2


DETAIL_GAIN = 8.0
"""Brings what an image has beyond the estimate beside it to the deviation of the image itself. It is bounded there:
where much was lost, light for instance, a photo would be told by that alone, and no texture learned."""
_UNSHUFFLE = 2
_SLOPE = 0.2


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Settings of `Discriminator`."""

    channels: int = 64
    """Width of the first level; the others have one and a half times, and twice as many."""


class Judgement(NamedTuple):
    """A discriminator's output at three sizes: (B, _, H / 2, W / 2), then a half and a quarter of that."""

    logits: list[Tensor]
    """For "a photo", one channel."""
    features: list[Tensor]
    """The maps behind the logits."""


class Discriminator(PretrainedModule):
    """Judges patches of an image at three sizes beside an estimate of it, which tells how degraded it was.

    The first maps see a few pixels (grain, ringing), the last ones about fifty (hair, leaves, bricks). Spectral norm
    (Miyato et al. 2018) keeps the slope of all layers but the last ones bounded, and with it the generator's gradient.
    """

    config_class = DiscriminatorConfig
    config: DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        widths = [6 * _UNSHUFFLE**2, channels, channels * 3 // 2, channels * 2]
        self.levels = nn.ModuleList()
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if level == 0 else 2
            self.levels.append(
                nn.ModuleList([_conv(before, after, 2 + stride, stride), _conv(after, after, 3)])
            )
        # free to grow: bounded as the rest is, they could not tell a faint mesh from texture
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths[1:])

    def forward(self, image: Tensor, beside: Tensor) -> Judgement:
        """Judge images (B, 3, H, W) in [-1, 1] beside the stem's prediction of them, or their upsampled LR images."""
        x = torch.cat([image, torch.tanh(DETAIL_GAIN * (image - beside))], dim=1)
        x = F.pixel_unshuffle(x, _UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        judged = Judgement([], [])
        for level, head in zip(self.levels, self.heads, strict=True):
            for conv in cast(nn.ModuleList, level):
                x = F.leaky_relu(conv(x), _SLOPE)
            judged.features.append(x)
            judged.logits.append(head(x))
        return judged


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, kernel, stride=stride, padding=1))


class Verdict(NamedTuple):
    """The losses of both sides of the game."""

    generator: Tensor
    discriminator: Tensor
    feature_matching: Tensor
    """Mean absolute difference of the features of sample and photo, over that of the photo's features from zero."""


def play(discriminator: Discriminator, image: Tensor, hr: Tensor, beside: Tensor) -> Verdict:
    """A sample against the photo that it should have been, the only pair that is compared.

    The game is that of relativistic pairs (Jolicoeur-Martineau 2018); features are matched as by Wang et al. 2018
    (arXiv 1711.11585, eq. 4): they know textures, where a formula knows pixels.
    """
    both = discriminator(torch.cat([hr, image.detach()]), torch.cat([beside, beside]))
    photo, detached = zip(*(logits.chunk(2) for logits in both.logits), strict=True)
    seen = [features.detach().chunk(2)[0] for features in both.features]
    # the generator's turn must leave the discriminator's weights alone
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    fake = functional_call(discriminator, fixed, (image, beside))
    return Verdict(
        _mean([F.softplus(real.detach() - own) for real, own in zip(photo, fake.logits, strict=True)]),
        _mean([F.softplus(own - real) for real, own in zip(photo, detached, strict=True)]),
        _mean(
            [
                (own - real).float().abs() / real.float().abs().mean()
                for real, own in zip(seen, fake.features, strict=True)
            ]
        ),
    )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack([loss.float().mean() for loss in losses]).mean()
