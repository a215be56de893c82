"""Put trained parts together into a model folder.

python -m linearsr.training.assemble --stem RUN/final --experts RUN/final ... --boundaries 0.223 ... -o MODEL

Experts are given from noise to image, one more than there are boundaries.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.models.codec import ResidualCodec, ResidualCodecConfig
from linearsr.models.lr_stem import PredictiveStem
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline, PipelineConfig


def assemble(
    stem: Path, experts: Sequence[Path], boundaries: Sequence[float], config: PipelineConfig
) -> LinearSRPipeline:
    """A pipeline from the folders that training left behind.

    Raises:
        CheckpointError: a folder that holds no such network.
        ValueError: experts and boundaries that do not fit each other.
    """
    networks = [LinearSRTransformer.from_pretrained(folder) for folder in experts]
    return LinearSRPipeline(
        PredictiveStem.from_pretrained(stem),
        SNRExperts(Partition(tuple(boundaries)), networks),
        ResidualCodec(ResidualCodecConfig()),
        config,
    )


def main() -> None:
    """Parse the arguments, assemble, and save in bfloat16."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stem", type=Path, required=True)
    parser.add_argument("--experts", type=Path, nargs="+", required=True)
    parser.add_argument("--boundaries", type=float, nargs="*", default=[])
    parser.add_argument(
        "--sigmas", type=float, nargs="+", help="default noise levels of the steps, without the final 0"
    )
    parser.add_argument(
        "--fidelity", type=float, default=PipelineConfig.fidelity, help="default of the model"
    )
    parser.add_argument("--name", default=PipelineConfig.name)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    config = PipelineConfig(fidelity=args.fidelity, name=args.name)
    if args.sigmas:
        config = replace(config, num_inference_steps=len(args.sigmas), sigmas=tuple(args.sigmas))
    pipeline = assemble(args.stem, args.experts, args.boundaries, config)
    pipeline.save_pretrained(args.output, torch.bfloat16)


if __name__ == "__main__":
    main()
