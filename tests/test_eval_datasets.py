"""Test sets by name: what is missing is said, and published figures stand beside ours."""

from dataclasses import replace

import pytest

from commands import document, done
from eval_tools import picture, run_eval
from linearsr.evaluation import datasets
from linearsr.evaluation.datasets import DATASETS, check
from linearsr.evaluation.registry import METRICS


@pytest.fixture
def small_sets(monkeypatch):
    """The sets with two images each, their LR sides eight pixels."""
    small = {name: replace(dataset, images=2, lr_side=8) for name, dataset in DATASETS.items()}
    monkeypatch.setattr(datasets, "DATASETS", small)
    return small


def lay_out(root, lr="LR", hr="HR"):
    for i in range(2):
        picture(root / lr / f"{i}.png", i, size=(8, 8))
        if hr:
            picture(root / hr / f"{i}.png", i, size=(32, 32))


@pytest.mark.parametrize(("lr", "hr"), [("LR", "HR"), ("test_LR", "test_HR"), ("lq", "gt")])
def test_the_layouts_of_the_authors_are_understood(tmp_path, small_sets, lr, hr):
    lay_out(tmp_path, lr, hr)
    layout = check(small_sets["realsr"], tmp_path)
    assert not layout.problems
    assert (layout.lr, layout.hr) == (tmp_path / lr, tmp_path / hr)


def test_what_is_missing_is_said(tmp_path, small_sets):
    result = run_eval("--dataset", "realsr", "--root", tmp_path / "nowhere", "--json")
    assert result.exit_code == 1
    assert f"{tmp_path / 'nowhere'}: is not a folder" in result.stderr
    assert "published at https://huggingface.co/datasets/Iceclear/StableSR-TestSets" in result.stderr
    assert document(result, 1)["complete"] is False
    lay_out(tmp_path)
    (tmp_path / "LR/1.png").rename(tmp_path / "LR/2.png")
    assert check(small_sets["realsr"], tmp_path).problems[0].startswith("HR images that have no LR image")
    picture(tmp_path / "HR/1.png", size=(30, 32))
    (tmp_path / "LR/2.png").unlink()
    assert check(small_sets["realsr"], tmp_path).problems == [
        f"{tmp_path / 'LR'}: 1 images, where the set has 2",
        f"{tmp_path / 'HR/1.png'}: is 30x32, not 32x32",
    ]
    (tmp_path / "LR/0.png").write_bytes(b"no image")
    assert any("not an image" in problem for problem in check(small_sets["realsr"], tmp_path).problems)


def test_a_complete_set_shows_its_published_figures(tmp_path, small_sets):
    lay_out(tmp_path)
    result = done(run_eval("--dataset", "realsr", "--root", tmp_path))
    assert "realsr is complete" in result.stderr
    assert "OSEDiff" in result.stdout
    assert "25.151" in result.stdout
    report = document(run_eval("--dataset", "realsr", "--root", tmp_path, "--json"))
    assert report["complete"] is True
    assert report["published"][0]["values"]["fid"] == 123.49


def test_results_are_measured_beside_the_published_figures(tmp_path, small_sets):
    lay_out(tmp_path / "set")
    for i in range(2):
        picture(tmp_path / f"pred/{i}_x4.png", i, size=(32, 32), noise=5)
    arguments = (
        "--dataset",
        "realsr",
        "--root",
        tmp_path / "set",
        tmp_path / "pred",
        "--metrics",
        "psnr_y,ssim_y",
    )
    result = done(run_eval(*arguments, "-o", tmp_path / "out"))
    assert "measured" in result.stdout
    assert "OSEDiff" in result.stdout
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert page.count('alt="0, LR"') == 1
    assert "OSEDiff" in page


@pytest.mark.parametrize(("name", "hr"), [("drealsr", "HR"), ("reallq250", None)])
def test_a_model_is_measured_on_a_set(tmp_path, small_sets, tiny_model, name, hr):
    lay_out(tmp_path, hr=hr)
    metrics = "psnr_y" if hr else "niqe"
    arguments = ("--dataset", name, "--root", tmp_path, "--model", tiny_model, "--metrics", metrics)
    report = document(run_eval(*arguments, "-o", tmp_path.with_name(f"{tmp_path.name}-out"), "--json"))
    assert report["images"] == 2
    assert report["metrics"][metrics]["count"] == (2 if hr else 0)
    assert [line["method"] for line in report["published"]][-1] == "LinearSR"


def test_published_figures_have_known_metrics_and_a_source():
    for dataset in DATASETS.values():
        for line in dataset.published:
            assert line["source"]
            assert line["values"].keys() <= METRICS.keys()
