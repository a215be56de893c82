"""The weights between two networks, one of which was trained on from the other.

A stem that learns new degradations forgets a little of the old ones. On the straight line between before and after
most of the new is there before much of the old is lost (Wortsman et al. 2022, "Robust fine-tuning"). Of two samplers
that were trained against a discriminator, each has faults of its own, which the network between them has in part only.

    python -m linearsr.training.interpolate BEFORE AFTER --share 0.4 -o BETWEEN
"""

import argparse
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor

from linearsr.models.lr_stem import STEMS, PredictiveStem
from linearsr.models.transformer import LinearSRTransformer
from linearsr.runtime.checkpoints import PretrainedModule, class_in, resolve_folder

_Network = TypeVar("_Network", bound=PretrainedModule)
_KINDS: dict[str, type[PretrainedModule]] = {**STEMS, LinearSRTransformer.__name__: LinearSRTransformer}


def interpolate(before: _Network, after: PretrainedModule, share: float) -> _Network:
    """The network at `share`, from 0 (`before`) to 1 (`after`), of the way; counters are those of `before`.

    What a stem tells of the degradation is not between the two: it is fitted anew.

    Raises:
        ValueError: networks of different shapes.
    """
    before, after = _without_strength(before), _without_strength(after)
    if before.config != after.config:
        raise ValueError("the two networks differ in shape: one must have been trained on from the other")
    other = after.state_dict()

    def between(name: str, weight: Tensor) -> Tensor:
        return (
            torch.lerp(weight.float(), other[name].float(), share) if weight.is_floating_point() else weight
        )

    state = {name: between(name, weight) for name, weight in before.state_dict().items()}
    return type(before).from_state(before.config, state, "interpolated")


def _without_strength(network: _Network) -> _Network:
    return cast(_Network, network.grown()) if isinstance(network, PredictiveStem) else network


def _load(folder: Path) -> PretrainedModule:
    path = resolve_folder(folder)
    kind, _ = class_in(path, _KINDS, "a network that can be trained on")
    return kind.from_pretrained(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="0: before; 1: after")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        interpolate(_load(args.before), _load(args.after), args.share).save_pretrained(args.output)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
