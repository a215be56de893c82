"""What the config of a run may say, and how its mistakes are told."""

from pathlib import Path

import pytest

from linearsr.training.config import load_config
from linearsr.training.section import ConfigError
from training_tools import (
    write_config,
)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"batch": 3}, [], r"batch: is unknown: did you mean batch_size\?"),
        ({"lr": 3}, [], r"lr: is no setting of this section: it belongs in optimizer\.lr"),
        ({"total_imags": 8, "total_images": None}, [], r"did you mean total_images\?"),
        ({"stage": {"kind": "stem", "formulas": {}}}, [], r"stage\.formulas \(kind distill\)"),
        ({"batch_size": 0}, [], "batch_size: Input should be greater than 0"),
        ({"stage": {"kind": "magic"}}, [], "stage"),
        ({}, ["data.degradations={fog: 1}"], "data.degradations: .*unknown degradation 'fog'"),
        ({}, ["optimizer.lr=-1"], "optimizer.lr: Input should be greater than 0"),
        ({}, ["optimizer"], "write it as key=value"),
        ({}, ["batch_size.x=1"], "batch_size is a value"),
        ({"stage": {"kind": "flow", "stem": "x", "preset": "huge"}}, [], "stage.flow.preset: .*huge"),
        ({"stage": {"kind": "flow", "stem": "x", "expert": 7}}, [], "stage.flow: .*expert 7 does not exist"),
        ({"stage": {"kind": "flow", "stem": "x", "boundaries": [0.9, 0.1]}}, [], "must rise strictly"),
        ({"stage": {"kind": "flow", "stem": "x", "network": {"depth": 3}}}, [], "stage.flow: .*depth"),
        (
            {"stage": {"kind": "flow", "sana": "x", "network": {"num_layers": 3}}},
            [],
            "num_layers is SANA's own",
        ),
        ({"stage": {"kind": "stem", "stem": {"foo": 1}}}, [], "stage.stem: .*foo"),
        ({"total_images": 1}, [], "total_images 1 is less than one batch of 2"),
        ({}, ["optimizer.lr=["], "no valid YAML"),
    ],
)
def test_config_mistakes_name_the_key(
    changes: dict[str, object], overrides: list[str], message: str, photos: Path, tmp_path: Path
) -> None:
    path = write_config(tmp_path / "c.yaml", photos, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)


def test_overrides_reach_their_key(photos: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path / "c.yaml", photos, tmp_path / "run")
    config = load_config(path, ["optimizer.lr=1e-2", "total_images=99"])
    assert (config.optimizer.lr, config.total_images) == (0.01, 99)


@pytest.mark.parametrize("text", ["a: [", "- 1", None])
def test_an_unreadable_config_is_one_line(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
