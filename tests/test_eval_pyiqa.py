"""Metrics that come through `pyiqa`: called by the right names with the right inputs, and missed in words."""

import sys
from types import ModuleType

import pytest
import torch

from commands import document
from eval_tools import pairs, run_eval
from linearsr.evaluation import registry
from linearsr.evaluation.registry import METRICS

NAMES = {
    "lpips_vgg": "lpips-vgg",
    "dists": "dists",
    "musiq": "musiq",
    "maniqa": "maniqa-pipal",
    "maniqa_koniq": "maniqa",
    "clipiqa": "clipiqa",
    "topiq": "topiq_nr",
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
            return torch.tensor([[0.25]])

        return compute

    module = ModuleType("pyiqa")
    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setattr(registry, "find_spec", lambda name: name)
    return seen


def test_each_is_called_by_its_name_with_its_inputs(tmp_path, calls):
    pred, hr = pairs(tmp_path, 2)
    report = document(run_eval(pred, hr, "--metrics", ",".join(NAMES), "--border", 2, "--json"))
    assert set(calls) == set(NAMES.values())
    for name, own in NAMES.items():
        assert report["metrics"][name]["mean"] == 0.25
        assert report["metrics"][name]["computed_by"] == f"pyiqa {own}"
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
    assert not report["not_available"]


def test_asked_for_and_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    result = run_eval(*pairs(tmp_path, 1), "--metrics", "psnr_y,dists,musiq", "--json")
    assert result.exit_code == 1
    assert "not available: dists, musiq: pip install 'linearsr[iqa]'" in result.stderr
    report = document(result, 1)
    assert list(report["metrics"]) == ["psnr_y"]
    assert all("pip install" in report["not_available"][name] for name in ("dists", "musiq"))


def test_installed_but_not_working(tmp_path, calls, monkeypatch):
    def create_metric(name, device):
        raise RuntimeError("no route to host\nfor the weights")

    monkeypatch.setattr(sys.modules["pyiqa"], "create_metric", create_metric)
    result = run_eval(*pairs(tmp_path, 1), "--metrics", "psnr_y,dists", "--json")
    assert result.exit_code == 1
    reason = "pyiqa cannot give 'dists' here: no route to host for the weights"
    assert document(result, 1)["not_available"] == {"dists": reason}
    assert list(document(result, 1)["metrics"]) == ["psnr_y"]
