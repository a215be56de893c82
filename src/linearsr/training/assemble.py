"""Trained parts, put together into a model."""

from collections.abc import Sequence
from pathlib import Path

from linearsr.flow.experts import SNRExperts
from linearsr.flow.partition import Partition
from linearsr.guidance.registry import load_guidance, load_tagger
from linearsr.models.codec import Codec
from linearsr.models.lr_stem import load_stem
from linearsr.models.rrdb import RRDBNet
from linearsr.models.transformer import LinearSRTransformer
from linearsr.pipeline import LinearSRPipeline, PipelineConfig


def assemble(
    stem: Path,
    experts: Sequence[Path],
    boundaries: Sequence[float],
    codec: Codec,
    config: PipelineConfig,
    guidance: Path | None = None,
    tagger: Path | None = None,
    trunk: Path | None = None,
) -> LinearSRPipeline:
    """A pipeline from the folders that training left behind; experts from noise to image, one more than boundaries.

    Raises:
        CheckpointError: a folder that holds no such network.
        ValueError: experts and boundaries that do not fit each other.
    """
    networks = [LinearSRTransformer.from_pretrained(folder) for folder in experts]
    return LinearSRPipeline(
        load_stem(stem),
        SNRExperts(Partition(tuple(boundaries)), networks),
        codec,
        config,
        None if guidance is None else load_guidance(guidance),
        None if tagger is None else load_tagger(tagger),
        None if trunk is None else RRDBNet.from_pretrained(trunk),
    )
