"""`linearsr knee`: what it reads, what it answers, and one line for every mistake."""

import builtins
import csv
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import document, done, linearsr, refused
from linearsr.runtime.checkpoints import write_json
from linearsr.training.config import RunKneeConfig
from linearsr.training.knee import find_knee
from test_knee import STEPS, oscillating, rising

knee = partial(linearsr, "knee")


def write_csv(file: Path, header: list[str], rows: list[list[object]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        [s, 30 + a, 0.5 - 0.2 * b] for s, a, b in zip(STEPS, oscillating(), oscillating(seed=1), strict=True)
    ]
    return write_csv(tmp_path / "curves.csv", ["step", "psnr", "lpips"], rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder: training steps, events and validations, the last line cut short."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [json.dumps({"images": 8, "l1": 0.1, "grad_norm": 1.0, "images_per_second": 2.0})]
    for step, value in zip(STEPS, oscillating(), strict=True):
        lines.append(json.dumps({"images": step, "mild/mean/psnr_y": 25 + value, "mild/mean/ssim_y": None}))
        lines.append(json.dumps({"images": step, "event": "back to a checkpoint"}))
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"images": 26']))
    return folder


def test_metrics_can_be_chosen(run, table):
    report = document(knee(run, "--json", "--metric", "*/psnr_y"))
    assert [metric["name"] for metric in report["metrics"]] == ["mild/mean/psnr_y"]
    assert (
        refused(knee(table, "--metric", "vmaf")) == "linearsr: no metric fits vmaf: there are psnr, lpips\n"
    )


@pytest.fixture
def flow_run(tmp_path: Path) -> Path:
    """A run as the trainer leaves it: the mean improves, the sample's PSNR falls as it draws detail."""
    folder = tmp_path / "flow"
    folder.mkdir()
    config = RunKneeConfig(certainty=0.75)
    fall = np.linspace(0, 0.4, len(STEPS)) ** 2
    curves = {"mild/mean/psnr_y": rising(noise=0.03)}
    for seed, name in enumerate(("psnr_y", "ssim_y"), 3):
        curves[f"mild/sample/{name}"] = rising(knee=24_000, seed=seed) - fall
    write_json(folder / "config.json", {"knee": config.model_dump(mode="json")})
    write_json(folder / "knee.json", asdict(find_knee(STEPS, curves, dict.fromkeys(curves, True), config)))
    rows = [dict(zip(curves, map(float, row), strict=True)) for row in zip(*curves.values(), strict=True)]
    lines = [json.dumps({"images": step, **row}) for step, row in zip(STEPS, rows, strict=True)]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return folder


def test_the_answer_is_that_of_the_run(flow_run):
    written = json.loads((flow_run / "knee.json").read_text())
    report = document(knee(flow_run, "--json"))
    assert written["confirmed"]
    for key in ("knee_step", "onset_step", "confirmed"):
        assert report[key] == written[key]
    assert report["confidence"] == round(written["confidence"], 4)
    assert [metric["votes"] for metric in report["metrics"]] == [True, False, False]
    asked = document(knee(flow_run, "--metric", "*/sample/*", "--json"))
    assert [metric["votes"] for metric in asked["metrics"]] == [True, True]
    assert asked["knee_step"] < report["knee_step"]


def test_metrics_without_a_vote_come_last(flow_run):
    lines = (flow_run / "metrics.jsonl").read_text().replace("mild/sample", "a/sample")
    (flow_run / "metrics.jsonl").write_text(lines)
    shown = knee(flow_run).stdout
    assert shown.index("mild/mean/psnr_y") < shown.index("a/sample/psnr_y")
    assert "without a vote: the last 2\n" in shown


def test_a_config_that_is_none(flow_run):
    for text in ("{", "{}", '{"knee": {"patience": 0}}', "[]"):
        (flow_run / "config.json").write_text(text)
        assert "is not the config of a run" in refused(knee(flow_run, "--json"))


def test_json_of_a_csv(table, tmp_path):
    report = document(knee(table, "--json"))
    assert report["knee_step"] == pytest.approx(48_000, abs=8_000)
    assert report["onset_step"] == pytest.approx(200_000, abs=16_000)
    assert 0.9 < report["confidence"] <= 1
    assert report["confirmed"] is True
    assert report["phases"]["improving"] == [8_000, report["knee_step"]]
    assert report["phases"]["oscillating"] == [report["onset_step"], 264_000]
    psnr, lpips = report["metrics"]
    assert (psnr["name"], psnr["higher_is_better"]) == ("psnr", True)
    assert (lpips["name"], lpips["higher_is_better"]) == ("lpips", False)
    assert lpips["best"] < lpips["at_knee"] < lpips["start"]
    assert Path(report["picture"]) == tmp_path / "curves.knee.png"
    Image.open(report["picture"]).verify()


def test_table_of_a_run_folder(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = done(knee(run))
    for text in ("mild/mean/psnr_y", "improving", "plateau", "oscillating", "confirmed", "onset", "knee.png"):
        assert text in result.stdout
    assert "l1" not in result.stdout
    lines = [line for line in result.stdout.splitlines() if not line.startswith("picture")]
    assert max(map(len, lines)) <= 80
    Image.open(run / "knee.png").verify()
    assert sorted(file.name for file in run.iterdir()) == ["knee.png", "metrics.jsonl"]
    assert knee(run).exit_code == 0


def test_directions(tmp_path):
    rows = [[s, v, -v, v, v] for s, v in zip(STEPS, oscillating(), strict=True)]
    names = ["images", "val_psnr", "a/niqe-pr", "clipiqa+", "sharpness"]
    file = write_csv(tmp_path / "a.csv", names, rows)
    said = refused(knee(file))
    assert all(text in said for text in ("sharpness", "--higher", "--lower"))
    known = knee(file, "--higher", "sharpness", "--json")
    assert [m["higher_is_better"] for m in json.loads(known.stdout)["metrics"]] == [True, False, True, True]
    turned = knee(file, "--lower", "sharpness", "--higher", "niqe-pr", "--json")
    assert [m["higher_is_better"] for m in json.loads(turned.stdout)["metrics"]] == [True, True, True, False]
    assert "no metric is named blur" in knee(file, "--lower", "blur").stderr
    assert "choose one" in knee(file, "--lower", "sharpness", "--higher", "sharpness").stderr


def test_the_training_loss_is_shown_and_votes_only_if_named(tmp_path):
    falling = 1 / (1 + np.arange(len(STEPS)))
    rows = [[s, v, loss, loss] for s, v, loss in zip(STEPS, oscillating(), falling, strict=True)]
    file = write_csv(tmp_path / "a.csv", ["step", "psnr", "loss", "train/loss"], rows)
    report = document(knee(file, "--json"))
    assert [metric["votes"] for metric in report["metrics"]] == [True, False, False]
    alone = write_csv(tmp_path / "b.csv", ["step", "loss"], [[s, v] for s, _, v, _ in rows])
    assert "no metric has a vote: there are loss" in refused(knee(alone))
    assert knee(alone, "--metric", "loss").exit_code == 0


def test_the_schedule_in_a_table(tmp_path):
    """A plateau before a drop of the learning rate is none, be it in the past or planned."""
    curve = rising()
    rates = [1e-3 if s < 160_000 else 1e-4 for s in STEPS]
    again = [v + (s >= 160_000) * 0.3 for s, v in zip(STEPS, curve, strict=True)]
    rows = [list(row) for row in zip(STEPS, again, rates, strict=True)]
    report = document(knee(write_csv(tmp_path / "a.csv", ["step", "psnr", "lr"], rows), "--json"))
    assert [metric["name"] for metric in report["metrics"]] == ["psnr"]
    assert 152_000 <= report["knee_step"] <= 168_000
    planned = [*rows[:18], [160_000, "", 1e-4]]
    report = document(knee(write_csv(tmp_path / "b.csv", ["step", "psnr", "lr"], planned), "--json"))
    assert report["knee_step"] is None
    report = json.loads(
        knee(write_csv(tmp_path / "c.csv", ["step", "psnr", "lr"], rows[:18]), "--json").stdout
    )
    assert report["knee_step"] == pytest.approx(48_000, abs=8_000)


def test_missing_values(tmp_path):
    rows = [
        [s, v, "" if i % 4 else v, "nan"] for i, (s, v) in enumerate(zip(STEPS, oscillating(), strict=True))
    ]
    file = write_csv(tmp_path / "a.csv", ["step", "psnr", "haarpsi", "niqe"], [*rows, [300_000, "", "", ""]])
    report = document(knee(file, "--json"))
    assert report["knee_step"] == pytest.approx(48_000, abs=8_000)
    assert report["phases"]["oscillating"][1] == 264_000
    assert report["metrics"][2]["best"] is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no column step or images"),
        (b"step,psnr\n", "no values"),
        (b"epoch,psnr\n1,2\n", "no column step or images"),
        (b"step,psnr\n8000,good\n", "line 2, column psnr: 'good' is not a number"),
        (b"step,psnr\n16000,1\n8000,2\n", "line 3 has step 8000 after 16000"),
        (b"step,psnr\n1.5,1\n", "a step is a whole number from 0, not 1.5"),
        (b"step,psnr\n,1\n", "a step is a whole number"),
        (b"step,psnr\n8000,1,2\n", "another number of cells"),
        (b"step,psnr,psnr\n8000,1,2\n", "a name of its own"),
        (b'step,psnr\n8000,"1\n', "is not CSV"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a text file"),
        ('{"images": 8, "grad_norm": 1}', "no values"),
        ("not json\n{}", "line 1 is not JSON"),
        ("[1]\n{}", "line 1 is not a record"),
        ('{"psnr": 1}\n', "a step is a whole number"),
        ('{"images": 8, "psnr": "high"}\n', "psnr: 'high' is not a number"),
        ('{"images": 8, "psnr": true}\n', "psnr: 'True' is not a number"),
    ],
)
def test_bad_files(tmp_path, content, says):
    run = isinstance(content, str)
    file = tmp_path / ("metrics.jsonl" if run else "bad.csv")
    file.write_bytes(content.encode() if run else content)
    assert says in refused(knee(tmp_path if run else file, "--json"))
    assert list(tmp_path.iterdir()) == [file]


def test_places_that_are_none(tmp_path, table):
    assert "does not exist" in knee(tmp_path / "nothing.csv").stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no metrics.jsonl" in knee(empty).stderr
    for wrong, says in ((tmp_path / "a.jpg", ".png"), (tmp_path / "no/a.png", "existing folder")):
        assert says in refused(knee(table, "-o", wrong))


def test_a_file_given_for_the_picture_is_not_overwritten_unless_asked(tmp_path, table):
    picture = tmp_path / "mine.png"
    assert knee(table, "-o", picture).exit_code == 0
    assert not (tmp_path / "curves.knee.png").exists()
    before = picture.read_bytes()
    assert "--overwrite" in refused(knee(table, "-o", picture))
    assert picture.read_bytes() == before
    assert knee(table, "-o", picture, "--overwrite").exit_code == 0


def test_without_matplotlib_the_answer_comes_all_the_same(table, tmp_path, monkeypatch):
    original = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return original(name, *args, **kwargs)

    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", importing)
    result = done(knee(table, "--json"))
    assert json.loads(result.stdout)["picture"] is None
    assert "pip install 'linearsr[train]'" in result.stderr
    asked = knee(table, "-o", tmp_path / "a.png")
    assert (asked.exit_code, len(asked.stderr.splitlines())) == (2, 1)
