"""What was trained stays only where it fits: to its config, and to the knees it started from."""

import shutil
from pathlib import Path

import pytest

from linearsr.training.section import ConfigError
from recipe_tools import recipe_settings, train
from training_tools import make_photos


def test_what_was_trained_from_another_knee_is_not_kept(tmp_path: Path) -> None:
    photos, run_dir = make_photos(tmp_path / "photos"), tmp_path / "run"
    raw = recipe_settings(photos, run_dir)
    raw["stages"] = {name: raw["stages"][name] for name in ("stem", "pretrain", "experts")}
    raw["stages"]["experts"]["total_images"] = 2
    train(raw)

    seen = list[str]()
    stem = raw["stages"]["stem"]
    longer = {**raw, "stages": {**raw["stages"], "stem": {**stem, "total_images": 14}}}
    another = "pretrain, experts/0, experts/1 were trained from another knee of stem"
    with pytest.raises(ConfigError, match=another):
        train(longer, seen=seen)
    other = {**raw, "stages": {**raw["stages"], "stem": {**stem, "seed": 1}}}
    with pytest.raises(ConfigError, match="stem: seed: was 0 when this run began and is 1 now"):
        train(other, seen=seen)
    assert seen == []

    shutil.rmtree(run_dir / "stem")
    with pytest.raises(ConfigError, match=another):
        train(other, seen=seen)
    train({**other, "stages": {"stem": other["stages"]["stem"]}}, seen=seen)
    with pytest.raises(ConfigError, match=f"{another} than this config gives: remove their folders"):
        train(other, seen=seen)
    assert seen == ["stem"]
    for outdated in ("pretrain", "experts"):
        shutil.rmtree(run_dir / outdated)
    assert train(other, seen=seen) == run_dir / "model"
    assert seen == ["stem", "pretrain", "experts/0", "experts/1"]
