"""Metrics that come through `pyiqa`: called by the right names with the right inputs, and missed in words."""

import runpy
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from commands import document, done
from eval_tools import pairs, picture, run_eval
from linearsr.evaluation import registry
from linearsr.evaluation.registry import METRICS, Metric

NAMES = {
    "lpips_vgg": "lpips-vgg",
    "dists": "dists",
    "musiq": "musiq",
    "maniqa": "maniqa-pipal",
    "maniqa_koniq": "maniqa",
    "clipiqa": "clipiqa",
    "topiq": "topiq_nr",
    "fid": "fid",
}


@pytest.fixture
def calls(monkeypatch):
    """A `pyiqa` that writes down how it is called, in a dict by its own metric names."""
    seen = {}

    def create_metric(name, device):
        assert isinstance(device, torch.device)
        seen[name] = []

        def compute(*inputs):
            seen[name].append(inputs)
            return 12.5 if name == "fid" else torch.tensor([[0.25]])

        return compute

    module = ModuleType("pyiqa")
    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setattr(registry, "find_spec", lambda name: name)
    return seen


def test_the_table_of_names():
    assert {name: m.pyiqa_name for name, m in METRICS.items() if m.pyiqa_name} == NAMES


def test_each_is_called_by_its_name_with_its_inputs(tmp_path, calls):
    pred, hr = pairs(tmp_path, 2)
    report = document(run_eval(pred, hr, "--metrics", ",".join(NAMES), "--border", 2, "--json"))
    assert set(calls) == set(NAMES.values())
    assert calls["fid"] == [(str(pred), str(hr))]
    for name, own in NAMES.items():
        assert report["metrics"][name]["mean"] == (12.5 if name == "fid" else 0.25)
        assert report["metrics"][name]["computed_by"] == f"pyiqa {own}"
        if name == "fid":
            continue
        assert len(calls[own]) == 2
        for inputs in calls[own]:
            assert len(inputs) == (2 if METRICS[name].kind == "full-reference" else 1)
            for image in inputs:
                assert image.shape == (1, 3, 20, 28)
                assert image.dtype == torch.float32
                assert 0 <= image.min() <= image.max() <= 1
    image, reference = calls["lpips-vgg"][0]
    assert torch.equal(calls["musiq"][0][0], image)
    assert not torch.equal(image, reference)


def test_without_being_asked_nothing_of_it_is_used(tmp_path, calls):
    report = document(run_eval(*pairs(tmp_path, 1), "--json"))
    assert not calls
    assert report["not_asked_for"] == list(NAMES)
    assert not report["not_available"]


def test_fid_of_a_model_needs_a_place_for_the_results(tmp_path, calls):
    from tiny_model import build

    build().save_pretrained(tmp_path / "model")
    picture(tmp_path / "hr/a.png")
    arguments = (
        "--data",
        tmp_path / "hr",
        "--model",
        tmp_path / "model",
        "--metrics",
        "psnr_y,fid",
        "--json",
    )
    result = run_eval(*arguments)
    assert result.exit_code == 1
    assert document(result, 1)["not_available"] == {"fid": "compares folders: keep the results with -o"}
    result = done(run_eval(*arguments, "-o", tmp_path / "out"))
    assert calls["fid"] == [(str(tmp_path / "out/results"), str(tmp_path / "hr"))]
    assert (Path(calls["fid"][0][0]) / "a.png").exists()


def test_asked_for_and_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    result = run_eval(*pairs(tmp_path, 1), "--metrics", "psnr_y,dists,fid", "--json")
    assert result.exit_code == 1
    assert "not available: dists, fid: pip install 'linearsr[iqa]'" in result.stderr
    report = document(result, 1)
    assert list(report["metrics"]) == ["psnr_y"]
    assert all("pip install" in report["not_available"][name] for name in ("dists", "fid"))


def test_installed_but_not_working(tmp_path, calls, monkeypatch):
    def create_metric(name, device):
        raise RuntimeError("no route to host\nfor the weights")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", create_metric)
    result = run_eval(*pairs(tmp_path, 1), "--metrics", "psnr_y,dists", "--json")
    assert result.exit_code == 1
    reason = "pyiqa cannot give 'dists' here: no route to host for the weights"
    assert document(result, 1)["not_available"] == {"dists": reason}
    assert list(document(result, 1)["metrics"]) == ["psnr_y"]


# where pyiqa is installed: is what is written down here still so?


def test_names_kinds_and_directions_are_those_of_pyiqa():
    """Its table is read without importing it, which needs torchvision."""
    spec = find_spec("pyiqa")
    if spec is None or spec.origin is None:
        pytest.skip("pyiqa is not installed")
    known = runpy.run_path(str(Path(spec.origin).with_name("default_model_configs.py")))["DEFAULT_CONFIGS"]
    for metric in METRICS.values():
        if metric.pyiqa_name is None:
            continue
        config = known[metric.pyiqa_name]
        assert config.get("lower_better", False) != metric.higher_is_better, metric.name
        if metric.kind != "set":  # which calls itself one without reference
            assert (config["metric_mode"] == "FR") == (metric.kind == "full-reference"), metric.name
    variants = {name: known[own]["metric_opts"] for name, own in NAMES.items()}
    assert (variants["lpips_vgg"]["net"], variants["lpips_vgg"]["version"]) == ("vgg", "0.1")
    assert (variants["maniqa"]["train_dataset"], variants["maniqa_koniq"]["train_dataset"]) == (
        "pipal",
        "koniq",
    )
    assert variants["musiq"]["pretrained"] == "koniq10k"
    assert "koniq" in variants["topiq"]["model_name"]


@pytest.mark.parametrize(
    ("name", "own", "options", "tolerance"),
    [
        ("psnr_rgb", "psnr", {}, 1e-3),
        ("psnr_y", "psnr", {"test_y_channel": True, "color_space": "ycbcr"}, 1e-3),
        ("ssim_rgb", "ssimc", {}, 1e-5),
        ("ssim_y", "ssim", {"color_space": "ycbcr"}, 2e-3),  # it rounds Y
        ("ms_ssim", "ms_ssim", {"color_space": "ycbcr"}, 2e-3),
    ],
)
def test_called_as_it_expects_it_gives_our_values(monkeypatch, name, own, options, tolerance):
    """Those of its metrics that need no weights, through the function that calls all others."""
    try:
        import pyiqa
    except Exception as error:  # torchvision in another version than torch ends in a RuntimeError
        pytest.skip(f"pyiqa cannot be imported: {error}")
    noise = torch.Generator().manual_seed(0)
    reference = torch.nn.functional.interpolate(
        torch.rand(1, 3, 24, 24, generator=noise, dtype=torch.float64), size=(192, 192), mode="bicubic"
    ).clamp(0, 1)
    image = (reference + 0.05 * torch.randn(reference.shape, generator=noise, dtype=torch.float64)).clamp(
        0, 1
    )
    image, reference = ((x * 255).round() / 255 for x in (image, reference))
    theirs = Metric(name, "full-reference", True, "", pyiqa_name=own)
    create = partial(pyiqa.create_metric, **options)
    monkeypatch.setattr(pyiqa, "create_metric", create)
    ours = METRICS[name].compute(image, reference)
    assert theirs.scorer(torch.device("cpu"))(image, reference) == pytest.approx(ours, abs=tolerance)
