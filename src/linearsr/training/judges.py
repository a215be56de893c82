"""The judges of samples: loss formulas, and a network that learns to tell photos from samples.

Images are (B, 3, H, W) in [-1, 1]; every loss formula gives a scalar, 0 for equal images.
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
    """Return the mean absolute error."""
    return (image - reference).abs().mean()


def ms_ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Return 1 - MS-SSIM on Y, over as many of its five scales as fit into the images."""
    return 1 - ms_ssim_values(_unit(image), _unit(reference), all_scales=False).mean()


FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {loss.__name__: loss for loss in (l1, ms_ssim)}
"""The loss formulas, by the names that configs use."""


def _unit(image: Tensor) -> Tensor:
    return (image.float() + 1) / 2


DETAIL_GAIN = 8.0
"""Factor that scales the difference between an image and its estimate to the deviation of images. A tanh
bounds the result: where much was lost, such as light, that alone would give away a photo, and no texture
would be learned."""
_UNSHUFFLE = 2
_SLOPE = 0.2


class Discriminator(nn.Module):
    """A discriminator of image patches of three sizes; an estimate beside them shows the degradation.

    The first maps see a few pixels (grain, ringing), the last ones about fifty (hair, leaves, bricks).
    Spectral norm (Miyato et al. 2018) bounds the slope of all layers except the heads, and so the generator's
    gradient. The first level has `channels` channels, the others have 1.5 times and twice as many.
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
        # no spectral norm here: bounded like the rest, the heads could not tell a faint mesh from texture
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in widths[1:])

    def forward(self, image: Tensor, beside: Tensor) -> list[Tensor]:
        """Return logits of "a photo": (B, 1, H / 2, W / 2), then at a half and a quarter of that size.

        `image` is (B, 3, H, W) in [-1, 1], `beside` the stem's prediction of it, or the upsampled LR image.
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
    """The losses of both players, generator and discriminator."""

    generator: Tensor
    discriminator: Tensor


def play(discriminator: Discriminator, image: Tensor, hr: Tensor, beside: Tensor) -> Verdict:
    """Compare each sample with the photo that it should be, and return the losses of both players.

    The losses are relativistic, for pairs (Jolicoeur-Martineau 2018).
    """
    both = discriminator(torch.cat([hr, image.detach()]), torch.cat([beside, beside]))
    photo, detached = zip(*(logits.chunk(2) for logits in both), strict=True)
    # the generator's loss must give the discriminator's weights no gradient
    fixed = {name: weight.detach() for name, weight in discriminator.named_parameters()}
    fake = functional_call(discriminator, fixed, (image, beside))
    return Verdict(
        _mean([F.softplus(real.detach() - own) for real, own in zip(photo, fake, strict=True)]),
        _mean([F.softplus(own - real) for real, own in zip(photo, detached, strict=True)]),
    )


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack([loss.float().mean() for loss in losses]).mean()
