"""Compare four ways to split the trajectory between four experts, at equal compute.

    python research/partitions.py --train PHOTOS --val PHOTOS --seeds 0 1

First, a small network is trained for all times in the latents of a model, whose stem and codec are used as
they are; with --full-size it is the mean of the model's own experts. Then a copy of it is trained for each
span of each partition, with the same crops, noise and number of images, at times uniform in the span; and the
network itself for as long as four experts together. The "found" boundaries are those of `linearsr partition`,
measured on the shared network. Errors and pictures are of photos outside the training data.

Prints the error of the clean latent by ranges of log-SNR, and PSNR-Y, SSIM-Y and NIQE of samples: along a
common grid of 8 steps, and with one step per expert, as the default model walks.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from linearsr import LinearSRPipeline
from linearsr.evaluation.metrics import psnr_y, ssim_y
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import PUBLISHED, Partition, equal_in_log_snr, equal_in_time
from linearsr.flow.path import add_noise, time_from_log_snr, to_velocity
from linearsr.flow.sampler import initial_noise, sample
from linearsr.images.degradation_choice import named_degradation
from linearsr.images.files import list_images
from linearsr.images.photos import degraded_pair
from linearsr.models.lr_stem import LRCondition
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import TransformerConfig
from linearsr.training.data import CropPairs, DataConfig, to_tensor
from linearsr.training.optimizer import OptimizerConfig, build_optimizer, learning_rate
from linearsr.training.partition import (
    EFFECTIVE_RANGE,
    TimeGradients,
    gradient_products,
    log_snr_grid,
    shared_network,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from quality import eight_bit, niqe_or_nan

GRID = log_snr_grid(12)
RANGES = (-8, -5, -3, -1, 1, 3, 9)
WALK = [1.0, *(time_from_log_snr(lam) for lam in np.linspace(-5, 7, 7)), 0.0]
SIDE, BATCH = 256, 16
NETWORK = TransformerConfig(
    in_channels=192,
    out_channels=192,
    lr_channels=256,
    num_attention_heads=3,
    attention_head_dim=16,
    num_cross_attention_heads=3,
    cross_attention_head_dim=16,
    num_layers=2,
    caption_channels=16,
    num_null_tokens=2,
    prediction_type="sample",
    lr_skip=True,
)
"""A network of 0.2 million parameters, so that experts learn something in minutes on one core."""


class Bank(NamedTuple):
    """Stem features and latents of crops, computed once."""

    features: Tensor
    latents: Tensor


class Photo(NamedTuple):
    """A photo outside the training data."""

    condition: LRCondition
    latent: Tensor
    hr: Tensor
    """HR image (1, 3, H, W) in [0, 1]."""


class Result(NamedTuple):
    """The figures of one partition, trained with one seed."""

    boundaries: tuple[float, ...]
    errors: list[float]
    """Mean squared error of the clean latent at each log-SNR of `GRID`."""
    common: list[float]
    """PSNR-Y, SSIM-Y, NIQE of samples along `WALK`."""
    own: list[float]
    """The same with one step per expert."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="folders of HR photos")
    parser.add_argument("--val", type=Path, required=True, help="folder of other HR photos")
    parser.add_argument("--model", help="whose stem and codec are used; the default model if left out")
    parser.add_argument("--degrade", default="mild")
    parser.add_argument("--crops", type=int, default=256, help="seen again and again, with other noise")
    parser.add_argument("--full-size", action="store_true", help="start from the model's experts, averaged")
    parser.add_argument("--pretrain", type=int, default=6000, help="images of the shared network otherwise")
    parser.add_argument("--images", type=int, default=1000, help="images of each expert")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--photos", type=int, default=8, help="of --val to measure on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    pipe = LinearSRPipeline.from_pretrained(args.model, torch_dtype=torch.float32)
    start = shared_network(pipe.transformer) if args.full_size else None
    bank = fill_bank(pipe, args.train, args.degrade, args.crops)
    photos = read_photos(pipe, args.val, args.degrade, args.photos)
    results: dict[str, list[Result]] = {}
    for seed in args.seeds:
        torch.manual_seed(seed)
        shared = start or train(LinearSRTransformer(NETWORK), bank, (0.0, 1.0), args.pretrain, 2e-3, seed)
        for name, experts in train_all(shared, bank, args.images, seed):
            result = Result(
                experts.partition.boundaries, errors(experts, photos), *samples(pipe, experts, photos)
            )
            results.setdefault(name, []).append(result)
            line = json.dumps({"seed": seed, "partition": name, **result._asdict()})
            Console(stderr=True).print(line, soft_wrap=True, highlight=False, markup=False)
    show(results, f"seeds {args.seeds}, {args.photos} photos, {args.degrade}")


def fill_bank(pipe: LinearSRPipeline, folders: Sequence[Path], degradation: str, crops: int) -> Bank:
    data = DataConfig(
        folders=dict.fromkeys(folders, 1.0), degradations={degradation: 1.0}, lr_crop=16, workers=0
    )
    pairs = CropPairs(data, pipe.scale, 0, crops)
    features, latents = [], []
    for first in range(0, crops, BATCH):
        batch = [pairs[i] for i in range(first, min(first + BATCH, crops))]
        with torch.no_grad():
            condition = pipe.lr_stem(torch.stack([crop.lr for crop in batch]))
            features.append(condition.features)
            latents.append(pipe.codec.encode(torch.stack([crop.hr for crop in batch]), condition))
    return Bank(torch.cat(features), torch.cat(latents))


def read_photos(pipe: LinearSRPipeline, folder: Path, degradation: str, count: int) -> list[Photo]:
    """Read the upper left 256 x 256 pixels, enough for NIQE, of `count` photos spread over the folder."""
    paths = list_images(folder)
    photos = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        lr, hr = (
            to_tensor(image)[None]
            for image in degraded_pair(path, named_degradation(degradation), 0, pipe.scale)
        )
        lr, hr = lr[..., : SIDE // pipe.scale, : SIDE // pipe.scale], hr[..., :SIDE, :SIDE]
        with torch.no_grad():
            condition = pipe.lr_stem(lr)
            photos.append(Photo(condition, pipe.codec.encode(hr, condition), (hr + 1) / 2))
    return photos


def train_all(
    start: LinearSRTransformer, bank: Bank, images: int, seed: int
) -> Iterator[tuple[str, SNRExperts]]:
    """Yield the shared network, trained on for as long as four experts together, then each partition."""
    count = PUBLISHED.num_experts
    longer = train(deepcopy(start), bank, (0.0, 1.0), count * images, 5e-4, seed + 1)
    yield "one network", SNRExperts(Partition(), [longer])
    partitions = {
        "published": PUBLISHED,
        "equal in t": equal_in_time(count),
        "equal in log-SNR": equal_in_log_snr(count, *EFFECTIVE_RANGE),
        "found": gradients(start, bank, seed).partition(count),
    }
    for name, partition in partitions.items():
        spans = [partition.span(expert) for expert in range(count)]
        experts = [train(deepcopy(start), bank, span, images, 5e-4, seed + 1) for span in spans]
        yield name, SNRExperts(partition, experts)


def train(
    network: LinearSRTransformer, bank: Bank, span: tuple[float, float], images: int, rate: float, seed: int
) -> LinearSRTransformer:
    """Train as a flow stage does, at times uniform in the span. The seed alone determines crops and noise."""
    rng = torch.Generator().manual_seed(seed)
    config = OptimizerConfig(lr=rate, final_lr=rate / 50, warmup_images=20 * BATCH, max_grad_norm=0.5)
    optimizer = build_optimizer(config, network.train())
    for done in range(0, images, BATCH):
        chosen = torch.randint(len(bank.latents), (BATCH,), generator=rng)
        latent = bank.latents[chosen]
        noise = torch.randn(latent.shape, generator=rng)
        times = span[1] - torch.rand(BATCH, generator=rng) * (span[1] - span[0])
        error = squared_error(network, latent, bank.features[chosen], noise, times)
        loss = (error / times.clamp(min=0.3).square()).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, done, images)
        optimizer.step()
    return network.eval()


def squared_error(
    network: torch.nn.Module, latent: Tensor, features: Tensor, noise: Tensor, times: Tensor
) -> Tensor:
    """Return the mean squared error (B,) of the clean latent that the network predicts."""
    clean = network(add_noise(latent, noise, times), times * 1000, lr_features=features)
    return (clean - latent).square().mean(dim=(1, 2, 3))


def gradients(network: LinearSRTransformer, bank: Bank, seed: int) -> TimeGradients:
    """Measure the gradients as `linearsr partition` does, on 32 crops."""
    log_snrs = log_snr_grid(16)
    products = [
        gradient_products(
            network,
            bank.features[first : first + 4],
            bank.latents[first : first + 4],
            log_snrs,
            [seed + i for i in range(first, first + 4)],
        )
        for first in range(0, 32, 4)
    ]
    return TimeGradients(log_snrs, np.stack(products))


@torch.inference_mode()
def errors(experts: SNRExperts, photos: Sequence[Photo]) -> list[float]:
    found = []
    for lam in GRID:
        times = torch.full((1,), time_from_log_snr(lam))
        found.append(
            fmean(
                float(
                    squared_error(
                        experts,
                        photo.latent,
                        photo.condition.features,
                        initial_noise(tuple(photo.latent.shape), number),
                        times,
                    )
                )
                for number, photo in enumerate(photos)
            )
        )
    return found


@torch.inference_mode()
def samples(
    pipe: LinearSRPipeline, experts: SNRExperts, photos: Sequence[Photo]
) -> tuple[list[float], list[float]]:
    """Return mean PSNR-Y, SSIM-Y and NIQE along the common walk, and with one step per expert."""

    def quality(walk: Sequence[float]) -> list[float]:
        scores = []
        for number, photo in enumerate(photos):

            def velocity(z: Tensor, t: float, photo: Photo = photo) -> Tensor:
                clean = experts(z, 1000 * t, lr_features=photo.condition.features)
                return to_velocity(clean, z, t, "sample")

            latent = sample(velocity, initial_noise(tuple(photo.latent.shape), number), walk)
            image = eight_bit((pipe.codec.decode(latent, photo.condition) + 1) / 2)
            scores.append((psnr_y(image, photo.hr), ssim_y(image, photo.hr), niqe_or_nan(image)))
        return np.nanmean(np.array(scores), axis=0).tolist()

    own = [1.0, *reversed(experts.partition.boundaries or PUBLISHED.boundaries), 0.0]
    return quality(WALK), quality(own)


def show(results: dict[str, list[Result]], title: str) -> None:
    """Print differences from "one network" of the same seed: mean and standard deviation over the seeds."""
    names = [f"{low:+g} to {high:+g}" for low, high in pairwise(RANGES)]
    table = Table("partition", "boundaries t", *names, "all", box=SIMPLE_HEAD, title=f"error in %, {title}")
    base = results["one network"]
    for name, runs in results.items():
        boundaries = "; ".join(dict.fromkeys(" ".join(f"{t:.3f}" for t in run.boundaries) for run in runs))
        changes = np.array(
            [
                100 * (np.array(run.errors) / np.array(one.errors) - 1)
                for run, one in zip(runs, base, strict=True)
            ]
        )
        parts = [
            changes[:, [low <= lam < high for lam in GRID]].mean(axis=1) for low, high in pairwise(RANGES)
        ]
        cells = [spread(part, "+.2f") for part in (*parts, changes.mean(axis=1))]
        table.add_row(name, boundaries, *cells)
    Console(width=150).print(table)
    pictures = Table(
        "partition",
        *(
            f"{walk} {metric}"
            for walk in ("8 steps", "4 own steps")
            for metric in ("PSNR-Y", "SSIM-Y", "NIQE")
        ),
        box=SIMPLE_HEAD,
    )
    for name, runs in results.items():
        scores = np.array([[*run.common, *run.own] for run in runs])
        forms = ("+.3f", "+.4f", "+.3f") * 2
        reference = np.array([[*run.common, *run.own] for run in base])
        cells = (
            [f"{value:{form[1:]}}" for value, form in zip(scores.mean(axis=0), forms, strict=True)]
            if runs is base
            else [spread(column, form) for column, form in zip((scores - reference).T, forms, strict=True)]
        )
        pictures.add_row(name, *cells)
    Console(width=150).print(pictures)


def spread(values: np.ndarray, form: str) -> str:
    """Format the mean and standard deviation over the seeds."""
    deviation = f" ({values.std(ddof=1):{form[1:]}})" if len(values) > 1 else ""
    return f"{values.mean():{form}}{deviation}"


if __name__ == "__main__":
    main()
