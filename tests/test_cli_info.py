"""`linearsr info`: what it says of a model is what the loaded model says of itself."""

import json
import math
import shutil
from pathlib import Path

import pytest

from commands import document, done, linearsr, refused
from linearsr import LinearSRPipeline
from linearsr.flow.partition import PUBLISHED
from linearsr.flow.path import log_snr
from linearsr.models.rrdb import RRDBNet, RRDBNetConfig
from linearsr.runtime.checkpoints import CheckpointError
from tiny_model import build


def test_json_agrees_with_the_model(tiny_model):
    report = document(linearsr("info", tiny_model, "--json"))
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


def test_scales_of_8_bit_weights_are_no_parameters():
    report = json.loads(linearsr("info", "--json").stdout)
    assert json.loads(linearsr("info", "default", "--json").stdout) == report
    trunk = RRDBNet(RRDBNetConfig(num_blocks=23))
    counts = {part["name"]: part["parameters"] for part in report["model"]["parts"]}
    assert counts["trunk"] == sum(parameter.numel() for parameter in trunk.parameters())


def test_table_names_the_experts(tiny_model):
    table = done(linearsr("info", tiny_model)).stdout
    assert all(name in table for name in PUBLISHED.names)


def test_a_folder_that_is_no_model(tiny_model, tmp_path):
    refused(linearsr("info", tmp_path))
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    (damaged / "lr_stem/diffusion_pytorch_model.safetensors").write_bytes(b"\xff" * 64)
    assert "diffusion_pytorch_model.safetensors" in refused(linearsr("info", damaged))


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("model_index.json", {"transformer": [["a"], ["b"]]}, "transformer is [['a'], ['b']]"),
        ("model_index.json", {"codec": 5}, "codec is 5; this version knows ResidualCodec"),
        ("model_index.json", {"lr_stem": None}, "lr_stem is None"),
        ("model_index.json", {"guidance": 7}, "guidance is 7"),
        ("model_index.json", {"num_inference_steps": "four"}, "num_inference_steps: Input should be"),
        ("model_index.json", {"num_inference_steps": -1}, "steps -1 is out of range: choose at least 0"),
        ("model_index.json", {"fidelity": True}, "fidelity: Input should be a valid number"),
        ("model_index.json", {"fidelity": 2}, "fidelity 2 is out of range"),
        ("model_index.json", {"sigmas": [1.0, "a"]}, "sigmas: Input should be a valid number"),
        ("model_index.json", {"flow_shift": 0}, "flow_shift 0 must be above 0"),
        ("model_index.json", {"name": 5}, "name: Input should be a valid string"),
        ("lr_stem/config.json", {"scale": "x"}, "scale: Input should be a valid integer"),
        ("transformer/config.json", {"boundaries": 5}, "not iterable"),
        ("transformer/config.json", {"boundaries": [0.9, 0.1]}, "must rise strictly"),
        ("guidance/config.json", {"text_encoder": 5}, "text_encoder: Input should be a valid string"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_file(tiny_model, tmp_path, file, change, complaint):
    """`info`, and loading too."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    if file.startswith("guidance"):
        (model / "guidance").mkdir()
        (model / file).write_text(json.dumps({"_class_name": "TextGuidance", "channels": 8}))
        changed(model / "model_index.json", {"guidance": ["linearsr", "TextGuidance"]})
    changed(model / file, change)
    said = refused(linearsr("info", model))
    assert said.startswith(f"linearsr: {model / file}: ")
    assert complaint in said
    with pytest.raises(CheckpointError) as caught:
        LinearSRPipeline.from_pretrained(model)
    assert str(caught.value) == said.removeprefix("linearsr: ").strip()


def changed(file: Path, change: dict[str, object]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
