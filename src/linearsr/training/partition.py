"""The search for the best partition of the trajectory: times whose gradients agree should share an expert.

For each log-SNR of a grid, the gradient of the flow loss is computed, with one network on the same crops and
noise. If the gradients of two times agree, a step for one helps the other; if not, two networks do better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.evaluation.plotting import BLUE, RED, drawn
from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition, best_parts, common_direction, edges_of, partition_at
from linearsr.flow.path import add_noise, log_snr, time_from_log_snr, to_sample
from linearsr.flow.sampler import initial_noise
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline
from linearsr.training.data import CropPairs, DataConfig, batches

EFFECTIVE_RANGE = (-7.044, 8.885)
"""Range of log-SNRs that the paper splits; outside of it an image is pure noise, or practically clean."""

_CONFIDENCE = (0.1, 0.9)
_REDRAWS = 200
_STYLES = (("-", RED), ("--", BLUE), (":", "#222222"), ("-.", "#7d3c98"))


@dataclass(frozen=True)
class TimeGradients:
    """Inner products of the gradients at the times of a grid."""

    log_snrs: tuple[float, ...]
    """The grid of n log-SNRs, rising."""
    products: NDArray[np.float64]
    """(batches, n, n), the inner products of each batch."""

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """(n, n), the cosines between the gradients at two times; products are summed over the batches."""
        return cosines(self.products.sum(axis=0))

    def partition(self, experts: int) -> Partition:
        """Return the partition whose spans agree most. Raises ValueError: for more experts than times."""
        return partition_at(self.log_snrs, best_parts(self.similarity, experts))

    def agreement(self, partition: Partition) -> float:
        """Return the `common_direction` of the spans of a partition, in (0, 1]."""
        return common_direction(self.similarity, edges_of(partition, self.log_snrs))

    def spread(self, experts: int, seed: int) -> list[tuple[float, float]] | None:
        """Return for each boundary the range of times that holds it in 80% of 200 bootstrap draws of batches.

        Return None for a single batch, which says nothing about the spread.
        """
        count = len(self.products)
        if count < 2:
            return None
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(_REDRAWS):
            similarity = cosines(self.products[rng.integers(count, size=count)].sum(axis=0))
            found.append(partition_at(self.log_snrs, best_parts(similarity, experts)).boundaries)
        low, high = np.quantile(np.array(found).reshape(_REDRAWS, experts - 1), _CONFIDENCE, axis=0)
        return list(zip(low.tolist(), high.tolist(), strict=True))


def cosines(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert inner products (n, n) of vectors to cosines; a zero vector has 0, and 1 with itself."""
    length = np.sqrt(np.diag(products))
    length[length == 0] = np.inf
    similarity: NDArray[np.float64] = products / np.outer(length, length)
    np.fill_diagonal(similarity, 1)
    return similarity


def log_snr_grid(times: int) -> tuple[float, ...]:
    """Return the centres of `times` equal cells that fill the effective range, rising."""
    low, high = EFFECTIVE_RANGE
    return tuple(low + (i + 0.5) * (high - low) / times for i in range(times))


def shared_network(transformer: SNRExperts) -> LinearSRTransformer:
    """Return one network for all times, in float32: the only one, or the mean of the experts' weights.

    Experts fine-tuned from one network stay close to it, and so does their mean. Experts of another shape
    than the last are left out, such as a sampler that was distilled from the first.
    """
    states = []
    for index in range(transformer.partition.num_experts):
        # a span includes its upper end, so that time selects its expert
        with transformer.at(1000 * transformer.partition.span(index)[1]) as expert:
            config = cast(LinearSRTransformer, expert).config
            states.append({name: tensor.float() for name, tensor in expert.state_dict().items()})
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    alike = [state for state, shape in zip(states, shapes, strict=True) if shape == shapes[-1]]
    mean = {name: torch.stack([state[name] for state in alike]).mean(dim=0) for name in shapes[-1]}
    return LinearSRTransformer.from_state(config, mean, "mean of the experts")


def measure(
    pipeline: LinearSRPipeline,
    photos: Path,
    degradation: str,
    *,
    images: int = 64,
    times: int = 24,
    lr_crop: int = 32,
    batch_size: int = 4,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TimeGradients:
    """Measure the gradients of the flow loss at each time of a grid, on crops of degraded photos.

    Converts the pipeline's stem to float32, and holds one gradient per time in memory. `images` is rounded up
    to whole batches, whose inner products are added before comparison; `lr_crop` is a side in pixels;
    `progress` is called after each batch with the number of batches done and their total.

    Raises:
        ConfigError: when there is nothing to draw from in `photos`.
        ValueError: when the model has no experts, the degradation is unknown, or crops do not fit its grid.
    """
    if lr_crop % pipeline.multiple_of:
        raise ValueError(
            f"crops of {lr_crop} LR pixels: this model needs a multiple of {pipeline.multiple_of}"
        )
    if pipeline.transformer is None:
        raise ValueError(
            f"the model {pipeline.config.name} has no experts to partition: choose one that has some"
        )
    data = DataConfig(folders={photos: 1.0}, degradations={degradation: 1.0}, lr_crop=lr_crop, workers=0)
    count = -(-images // batch_size)
    pairs = CropPairs(data, pipeline.scale, seed, count * batch_size)
    log_snrs = log_snr_grid(times)
    stem, codec = pipeline.lr_stem.float().requires_grad_(False), pipeline.codec
    network = shared_network(pipeline.transformer).to(pipeline.device).requires_grad_(True)
    products = []
    for samples in batches(pairs, 0, batch_size):
        with torch.no_grad():
            condition = stem(samples.lr.to(pipeline.device))
            latent = codec.encode(samples.hr.to(pipeline.device), condition).float()
        seeds = [seed + number for number in samples.number.tolist()]
        products.append(gradient_products(network, condition.features, latent, log_snrs, seeds))
        progress(len(products), count)
    return TimeGradients(log_snrs, np.stack(products))


def gradient_products(
    network: LinearSRTransformer,
    features: Tensor,
    latent: Tensor,
    log_snrs: Sequence[float],
    seeds: list[int],
) -> NDArray[np.float64]:
    """Return (n, n) inner products of the gradients of the clean latent's squared error at n log-SNRs.

    `features` (B, F, h', w') are those of the LR condition, `latent` (B, C, h', w') is the clean latent. All
    log-SNRs get the same noise, from the B `seeds`. All n gradients are in memory at once.
    """
    noise = initial_noise(tuple(latent.shape), seeds, device=latent.device)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.empty(len(log_snrs), sum(p.numel() for p in parameters), device=latent.device)
    for row, lam in enumerate(log_snrs):
        times = torch.full((len(latent),), time_from_log_snr(lam), device=latent.device)
        noisy = add_noise(latent, noise, times)
        prediction = network(noisy, times * 1000, lr_features=features)
        clean = to_sample(prediction.float(), noisy, times, network.config.prediction_type)
        loss = (clean - latent).square().mean()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        gradients[row] = torch.cat([gradient.flatten() for gradient in found])
    products: NDArray[np.float64] = (gradients @ gradients.T).cpu().double().numpy()
    return products


def draw_partition(gradients: TimeGradients, partitions: Mapping[str, Partition], file: Path) -> None:
    """Write a PNG of the cosines over log-SNR and the boundaries of up to four partitions; see `drawn`."""
    step = gradients.log_snrs[1] - gradients.log_snrs[0]
    low, high = gradients.log_snrs[0] - step / 2, gradients.log_snrs[-1] + step / 2
    with drawn(file, 6.4, 6.2) as figure:
        axis = figure.subplots()
        shown = axis.imshow(
            gradients.similarity,
            origin="lower",
            extent=(low, high, low, high),
            vmin=-1,
            vmax=1,
            cmap="RdBu_r",
        )
        figure.colorbar(shown, ax=axis, label="cosine between the gradients", shrink=0.8)
        for (name, partition), (line, colour) in zip(partitions.items(), _STYLES, strict=False):
            for number, boundary in enumerate(partition.boundaries):
                style: Any = {"color": colour, "linestyle": line, "linewidth": 1.3}
                axis.axvline(log_snr(boundary), label=name if number == 0 else None, **style)
                axis.axhline(log_snr(boundary), **style)
        label = "log-SNR (noise on the left, image on the right)"
        axis.set(xlim=(low, high), ylim=(low, high), xlabel=label, ylabel="log-SNR")
        marks = (0.97, 0.9, 0.75, 0.5, 0.25, 0.1, 0.03)
        top = axis.secondary_xaxis("top")
        top.set_xticks([log_snr(t) for t in marks], [f"{t:g}" for t in marks])
        top.set_xlabel("time t")
        if any(partition.boundaries for partition in partitions.values()):
            figure.legend(loc="outside lower center", ncols=len(partitions), fontsize=9, frameon=False)
