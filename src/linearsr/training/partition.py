"""Where the trajectory should be split, found from data: times that want the same of a network share an expert.

For each log-SNR of a grid the gradient of the flow loss is taken, of one network and on the same crops and noise.
Where the gradients of two times agree, a step for one helps the other; where they do not, two networks do better.
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
from linearsr.flow.path import PredictionType, add_noise, log_snr, time_from_log_snr, to_sample
from linearsr.flow.sampler import initial_noise
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline
from linearsr.training.data import CropPairs, DataConfig, batches

EFFECTIVE_RANGE = (-7.044, 8.885)
"""Log-SNRs between which the paper splits; beyond them an image is all noise, or as good as clean."""

_CONFIDENCE = (0.1, 0.9)
_REDRAWS = 200
_STYLES = (("-", RED), ("--", BLUE), (":", "#222222"), ("-.", "#7d3c98"))


@dataclass(frozen=True)
class TimeGradients:
    """Inner products of the gradients at the times of a grid."""

    log_snrs: tuple[float, ...]
    """The grid, rising: n of them."""
    products: NDArray[np.float64]
    """(batches, n, n)"""

    @cached_property
    def similarity(self) -> NDArray[np.float64]:
        """(n, n): cosines between the gradients at two times, each taken on the same batch."""
        return cosines(self.products.sum(axis=0))

    def partition(self, experts: int) -> Partition:
        """The one whose spans agree most. Raises ValueError for more experts than times."""
        return partition_at(self.log_snrs, best_parts(self.similarity, experts))

    def agreement(self, partition: Partition) -> float:
        """`common_direction` of the spans of any partition, in (0, 1]."""
        return common_direction(self.similarity, edges_of(partition, self.log_snrs))

    def spread(self, experts: int, seed: int) -> list[tuple[float, float]] | None:
        """For each boundary the times between which it lies in 80% of 200 draws of batches with replacement.

        None: a single batch tells nothing of it.
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
    """Inner products (n, n) of vectors -> the cosines between them; a vector of zeros has no cosine but with itself."""
    length = np.sqrt(np.diag(products))
    length[length == 0] = np.inf
    similarity: NDArray[np.float64] = products / np.outer(length, length)
    np.fill_diagonal(similarity, 1)
    return similarity


def log_snr_grid(times: int) -> tuple[float, ...]:
    """The middles of so many cells of one length that fill the effective range, rising."""
    low, high = EFFECTIVE_RANGE
    return tuple(low + (i + 0.5) * (high - low) / times for i in range(times))


def shared_network(transformer: SNRExperts) -> LinearSRTransformer:
    """One network for all times, in float32: the only one, or the mean of the experts' weights.

    Experts that were fine-tuned from one network stay close to it, and so their mean is close to it. One that is built
    otherwise than the last, as a sampler that was distilled from the first may be, is left out.
    """
    states = []
    for index in range(transformer.partition.num_experts):
        # the upper end of a span belongs to it
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
    """Gradients of the flow loss at each time of a grid, on crops of degraded photos.

    Changes the types of the pipeline's parts, and holds as many gradients as there are times. `images` is rounded up
    to whole batches, whose gradients are added before they are compared; `lr_crop` is a side in pixels; `progress` is
    called after each batch, with the number done and that of all.

    Raises:
        ConfigError: nothing to draw from in `photos`.
        ValueError: experts that are not alike, an unknown degradation, or crops off the model's grid.
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
    """(n, n): inner products of the gradients of the clean latent's squared error at n log-SNRs, on one batch.

    `features` (B, F, h', w') are those of the LR condition, `latent` (B, C, h', w') is the clean one. All log-SNRs have
    the same noise, which follows from the B `seeds`; as many gradients are held in memory at once.
    """
    noise = initial_noise(tuple(latent.shape), seeds, device=latent.device)
    kind = cast(PredictionType, network.config.prediction_type)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    gradients = torch.empty(len(log_snrs), sum(p.numel() for p in parameters), device=latent.device)
    for row, lam in enumerate(log_snrs):
        times = torch.full((len(latent),), time_from_log_snr(lam), device=latent.device)
        noisy = add_noise(latent, noise, times)
        prediction = network(noisy, times * 1000, lr_features=features)
        clean = to_sample(prediction.float(), noisy, times, kind)
        loss = (clean - latent).square().mean()
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        gradients[row] = torch.cat([gradient.flatten() for gradient in found])
    products: NDArray[np.float64] = (gradients @ gradients.T).cpu().double().numpy()
    return products


def draw_partition(gradients: TimeGradients, partitions: Mapping[str, Partition], file: Path) -> None:
    """Write a PNG: the cosines over log-SNR, and the boundaries of up to four partitions by name; see `drawn`."""
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
