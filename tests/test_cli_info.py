"""`linearsr info`: what it says of a model is what the loaded model says of itself."""

import json
import math
import shutil

from typer.testing import CliRunner

from linearsr.cli.app import app
from linearsr.flow.partition import PUBLISHED
from linearsr.flow.snr import log_snr
from tiny_model import build, tiny_model

__all__ = ["tiny_model"]


def test_json_agrees_with_the_model(tiny_model):
    result = CliRunner().invoke(app, ["info", str(tiny_model), "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    model, pipeline = report["model"], build()
    counts = {
        name: sum(parameter.numel() for parameter in getattr(pipeline, name).parameters())
        for name in ("lr_stem", "transformer", "codec")
    }
    assert {part["name"]: part["parameters"] for part in model["parts"]} == counts
    assert model["parameters"] == sum(counts.values())
    assert (model["name"], model["scale"], model["settings"]["num_inference_steps"]) == ("tiny", 4, 4)
    assert model["bytes"] == sum(file.stat().st_size for file in tiny_model.rglob("*") if file.is_file())
    assert report["device"] in ("cpu", "cuda", "mps")
    for index, expert in enumerate(model["experts"]):
        low, high = PUBLISHED.span(index)
        ends = [None if math.isinf(log_snr(t)) else log_snr(t) for t in (high, low)]
        assert (expert["t"], expert["log_snr"]) == ([low, high], ends)
        assert expert["parameters"] * 4 == counts["transformer"]
    assert len(model["experts"]) == 4


def test_table_names_the_experts(tiny_model):
    result = CliRunner().invoke(app, ["info", str(tiny_model)])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in PUBLISHED.names)


def test_a_folder_that_is_no_model(tiny_model, tmp_path):
    empty = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert (empty.exit_code, empty.stdout, len(empty.stderr.splitlines())) == (2, "", 1)
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (damaged / "lr_stem/diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)
    result = CliRunner().invoke(app, ["info", str(damaged)])
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "diffusion_pytorch_model.safetensors" in result.stderr
