"""`linearsr train`: from a config to weights, one line for every mistake, and no run lost by accident."""

import builtins
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from linearsr.cli.app import app
from linearsr.models.lr_stem import PredictiveStem


@pytest.fixture
def config(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    settings = {
        "run_dir": str(tmp_path / "run"),
        "batch_size": 2,
        "total_images": 4,
        "save_every_images": 2,
        "mixed_precision": "no",
        "stage": {"kind": "stem", "stem": {"channels": 8, "num_blocks": 1}},
        "data": {"folders": {str(photos): 1.0}, "lr_crop": 8, "workers": 0},
        "validation": {"folder": str(photos), "every_images": 4, "max_pictures": 1},
    }
    file = tmp_path / "stem.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def train(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def images_seen(run: Path) -> list[int]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [record["images"] for record in records if "l1" in record]


def test_trains_refuses_and_resumes(config, tmp_path):
    run = tmp_path / "run"
    result = train(config, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    assert result.stderr.splitlines()[-1] == f"weights in {run / 'final'}"
    assert "psnr_y" in result.stderr
    assert PredictiveStem.from_pretrained(run / "final").config.channels == 8

    refused = train(config)
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)
    assert "--resume" in refused.stderr

    resumed = train(config, "--resume", "--set", "total_images=8")
    assert resumed.exit_code == 0, resumed.stderr
    assert "going on from 4 images" in resumed.stderr
    assert images_seen(run) == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["none.yaml"], "none.yaml"),
        (["{config}", "--set", "batch_size=0"], "batch_size"),
        (["{config}", "--set", "no_such_key=1"], "no_such_key"),
        (["{config}", "--set", "batch_size"], "--set batch_size"),
        (["{config}", "--set", "data.folders={{/nowhere: 1}}"], "/nowhere"),
        (["{config}", "--set", "stage={{kind: flow, stem: /nowhere}}"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(config, arguments, named):
    result = train(*(argument.format(config=config) for argument in arguments))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1
    assert named in result.stderr


def test_missing_extra_names_the_command(config, monkeypatch):
    real = builtins.__import__

    def without_accelerate(name, *arguments, **options):
        if name.split(".")[0] == "accelerate":
            raise ModuleNotFoundError("No module named 'accelerate'", name="accelerate")
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "linearsr.training.trainer", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_accelerate)
    result = train(config)
    assert result.exit_code == 2
    assert result.stderr == "linearsr: training needs accelerate: pip install 'linearsr[train]'\n"


def test_interrupt_says_how_to_go_on(config, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("linearsr.training.trainer.Trainer.run", interrupt)
    result = train(config)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
