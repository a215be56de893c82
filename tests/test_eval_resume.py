"""`linearsr eval -o`: a run goes on from what its folder holds, and spoils no other."""

import json
import os
from dataclasses import replace

import pytest
from filelock import FileLock

from commands import document, done, refused
from eval_tools import QUICK, pairs, picture, run_eval, table
from linearsr.evaluation import registry


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    pred, hr = pairs(tmp_path, 4)
    out = tmp_path / "out"
    calls = []
    original = registry.METRICS["psnr_rgb"].compute

    def counted(image, reference):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(image, reference)

    monkeypatch.setitem(registry.METRICS, "psnr_rgb", replace(registry.METRICS["psnr_rgb"], compute=counted))
    arguments = (pred, hr, "--metrics", "psnr_rgb", "-o", out, "--json")
    stopped = run_eval(*arguments)
    assert stopped.exit_code == 130
    assert "the same command resumes it" in stopped.stderr
    assert len(table(out)) == 2
    assert json.loads((out / "summary.json").read_text())["complete"] is False
    with (out / "per_image.csv").open("a") as file:
        file.write("002,31.")  # as a kill in the middle of a line leaves it
    report = document(run_eval(*arguments))
    assert len(calls) == 5
    assert (report["reused"], report["images"]) == (2, 4)
    fresh = document(run_eval(*arguments[:-3], "-o", tmp_path / "fresh", "--json"))
    assert report["metrics"] == fresh["metrics"]
    assert table(out) == table(tmp_path / "fresh")


def test_any_name_that_a_file_may_have(tmp_path):
    pred, hr = pairs(tmp_path, 1)
    name = os.fsdecode(b"a\xff.png")
    try:
        for folder in (pred, hr):
            (folder / "000.png").rename(folder / name)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    arguments = (pred, hr, *QUICK, "-o", tmp_path / "out", "--json")
    for reused in (0, 1):
        result = done(run_eval(*arguments))
        assert document(result)["reused"] == reused


def test_changed_inputs_are_measured_again_and_removed_ones_forgotten(tmp_path):
    pred, hr = pairs(tmp_path, 4)
    arguments = (pred, hr, *QUICK, "-o", tmp_path / "out", "--json")
    before = document(run_eval(*arguments))
    picture(pred / "001.png", 1, noise=60)
    (pred / "003.png").unlink()
    (hr / "003.png").unlink()
    os.utime(hr / "000.png", (0, 0))  # the same contents
    after = document(run_eval(*arguments))
    assert (after["reused"], after["images"]) == (2, 3)
    assert after["metrics"]["psnr_rgb"]["min"] < before["metrics"]["psnr_rgb"]["min"]
    assert [row["image"] for row in table(tmp_path / "out")] == ["000", "001", "002"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--border", 2), "was measured with border 0, not 2"),
        (("--metrics", "ssim_y"), "was measured with metrics ssim_y,psnr_rgb, not ssim_y"),
    ],
)
def test_other_settings_are_noticed(tmp_path, more, message):
    pred, hr = pairs(tmp_path, 1)
    out = tmp_path / "out"
    run_eval(pred, hr, *QUICK, "-o", out)
    before = (out / "per_image.csv").read_bytes()
    said = refused(run_eval(pred, hr, *QUICK, *more, "-o", out))
    assert message in said
    assert "choose another -o, or --overwrite" in said
    assert (out / "per_image.csv").read_bytes() == before
    assert run_eval(pred, hr, *QUICK, *more, "-o", out, "--overwrite").exit_code == 0


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    pred, hr = pairs(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/per_image.csv").write_text("mine,1\n")
    assert "summary.json: is missing or damaged" in refused(
        run_eval(pred, hr, *QUICK, "-o", tmp_path / "out")
    )
    assert (tmp_path / "out/per_image.csv").read_text() == "mine,1\n"


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    arguments = (*pairs(tmp_path, 1), *QUICK, "-o", tmp_path / "out")
    assert run_eval(*arguments).exit_code == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with FileLock(tmp_path / "out/.lock"):
        assert "another evaluation writes there" in refused(run_eval(*arguments, "--overwrite"))
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert run_eval(*arguments, "--overwrite").exit_code == 0
