"""What samples are judged by: losses by formula, and a network that learns to tell photos from samples.

Images are (B, 3, H, W) in [-1, 1]; every loss by formula is a scalar, 0 for equal images.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from linearsr.evaluation.metrics import ms_ssim_values


def l1(image: Tensor, reference: Tensor) -> Tensor:
    """Mean absolute error."""
    return (image - reference).abs().mean()


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """1 - MS-SSIM on Y, over as many of its five scales as the images have room for."""
    return 1 - ms_ssim_values(_unit(image), _unit(reference), all_scales=False).mean()


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {loss.__name__: loss for loss in (l1, ms_ssim)}
"""By the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2


DETAIL_GAIN = 8.0
"""Brings what an image has beyond the estimate beside it to the deviation of the image itself. It is bounded there:
where much was lost, light for instance, a photo would be told by that alone, and no texture learned."""
_UNSHUFFLE = 2
_SLOPE = 0.2


class Discriminator(nn.Module):
    """Judges patches of an image at three sizes beside an estimate of it, which tells how degraded it was.

    The first maps see a few pixels (grain, ringing), the last ones about fifty (hair, leaves, bricks). Spectral norm
    (Miyato et al. 2018) keeps the slope of all layers but the last ones bounded, and with it the generator's gradient.
    The first level has so many `channels`, the others have one and a half times and twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [6 * _UNSHUFFLE**2, channels, channels * 3 // 2, channels * 2]
        self.levels = nn.ModuleList()
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = 1 if level == 0 else 2
            self.levels.append(
                nn.ModuleList([_conv(before, after, 2 + stride, stride), _conv(after, after, 3)])
            )
        # free to grow: bounded as the rest is, they could not tell a faint mesh from texture
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths[1:])

    def forward(self, image: Tensor, beside: Tensor) -> list[Tensor]:
        """Logits of "a photo" (B, 1, H / 2, W / 2), then at a half and a quarter of that.

        Images (B, 3, H, W) in [-1, 1] lie beside the stem's prediction of them, or their upsampled LR images.
        """
        x = torch.cat([image, torch.tanh(DETAIL_GAIN * (image - beside))], dim=1)
        x = F.pixel_unshuffle(x, _UNSHUFFLE).contiguous(memory_format=torch.channels_last)
        logits = []
        for level, head in zip(self.levels, self.heads, strict=True):
            for conv in cast(nn.ModuleList, level):
                x = F.leaky_relu(conv(x), _SLOPE)
            logits.append(head(x))
        return logits


def _conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, kernel, stride=stride, padding=1))


class Verdict(NamedTuple):
    """The losses of both sides of the game."""

    generator: Tensor
    discriminator: Tensor


def play(discriminator: Discriminator, image: Tensor, hr: Tensor, beside: Tensor) -> Verdict:
    """A sample against the photo that it should have been, the only pair that is compared.

    The game is that of relativistic pairs (Jolicoeur-Martineau 2018).
    """
    both = discriminator(torch.cat([hr, image.detach()]), torch.cat([beside, beside]))
    photo, detached = zip(*(logits.chunk(2) for logits in both), strict=True)
    # the generator's turn must leave the discriminator's weights alone
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    fake = functional_call(discriminator, fixed, (image, beside))
    return Verdict(
        _mean([F.softplus(real.detach() - own) for real, own in zip(photo, fake, strict=True)]),
        _mean([F.softplus(own - real) for real, own in zip(photo, detached, strict=True)]),
    )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack([loss.float().mean() for loss in losses]).mean()
