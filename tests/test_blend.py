"""The weights between two networks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig
from linearsr.models.transformer import LinearSRTransformer
from linearsr.models.transformer_config import PRESETS
from linearsr.training.blend import BlendStage, interpolate
from linearsr.training.config import TrainConfig
from linearsr.training.section import ConfigError
from training_tools import settings


def stem(seed: int, **changes: int) -> PredictiveStem:
    torch.manual_seed(seed)
    return PredictiveStem(PredictiveStemConfig(**{"channels": 8, "num_blocks": 1, **changes}))


def test_the_ends_are_the_stems_and_the_middle_their_mean() -> None:
    before, after = stem(0), stem(1)
    for share, expected in ((0, before), (1, after)):
        for name, weight in interpolate(before, after, share).state_dict().items():
            torch.testing.assert_close(weight, expected.state_dict()[name])
    middle = interpolate(before, after, 0.5).state_dict()["conv_in.weight"]
    torch.testing.assert_close(middle, (before.conv_in.weight + after.conv_in.weight).detach() / 2)


def test_a_transformer_between_two(tmp_path: Path) -> None:
    for seed, name in enumerate(("before", "after")):
        torch.manual_seed(seed)
        LinearSRTransformer(PRESETS["tiny"]).save_pretrained(tmp_path / name / "transformer")
    made = blended(tmp_path, "transformer")["transformer"].state_dict()
    before, after = (
        LinearSRTransformer.from_pretrained(tmp_path / name / "transformer").state_dict()
        for name in ("before", "after")
    )
    for name, weight in made.items():
        torch.testing.assert_close(weight, (before[name] + after[name]) / 2)


def test_networks_that_cannot_be_blended_are_one_line(tmp_path: Path) -> None:
    stem(0).save_pretrained(tmp_path / "before/lr_stem")
    stem(0, num_blocks=2).save_pretrained(tmp_path / "after/lr_stem")
    with pytest.raises(ConfigError, match=r"^stage\.after: the two networks differ in shape"):
        blended(tmp_path, "lr_stem")


def blended(folder: Path, part: str) -> Any:
    stage = {"kind": "blend", "before": folder / "before" / part, "after": folder / "after" / part}
    config = TrainConfig(**settings(folder, folder / "run", stage=stage))
    assert isinstance(config.stage, BlendStage)
    return config.stage.compute(config.data, config.seed)[0]
