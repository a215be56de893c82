"""The weights between two networks."""

import sys
from pathlib import Path

import pytest
import torch

from linearsr.models.lr_stem import PredictiveStem, PredictiveStemConfig, load_stem
from linearsr.models.presets import PRESETS
from linearsr.models.transformer import LinearSRTransformer
from linearsr.training.interpolate import interpolate, main


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


def test_stems_of_other_shapes_have_nothing_between_them() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        interpolate(stem(0), stem(0, num_blocks=2), 0.5)


def test_a_transformer_between_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(("before", "after")):
        torch.manual_seed(seed)
        LinearSRTransformer(PRESETS["tiny"]).save_pretrained(tmp_path / name)
    folders = [str(tmp_path / name) for name in ("before", "after", "made")]
    monkeypatch.setattr(sys, "argv", ["interpolate", *folders[:2], "-o", folders[2]])
    main()
    before, after, made = (LinearSRTransformer.from_pretrained(folder).state_dict() for folder in folders)
    for name, weight in made.items():
        torch.testing.assert_close(weight, (before[name] + after[name]) / 2)


def test_the_command_writes_a_stem_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stem(0).save_pretrained(tmp_path / "before")
    stem(1).save_pretrained(tmp_path / "after")
    arguments = [
        "interpolate",
        str(tmp_path / "before"),
        str(tmp_path / "after"),
        "-o",
        str(tmp_path / "made"),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    main()
    assert load_stem(tmp_path / "made").config == stem(0).config
    monkeypatch.setattr(sys, "argv", [*arguments[:2], str(tmp_path / "nowhere"), *arguments[3:]])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "no such folder" in capsys.readouterr().err
