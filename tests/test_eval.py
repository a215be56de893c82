"""`linearsr eval` end to end: matching, reports, and what is said of inputs that do not fit."""

import json
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from commands import document, done, linearsr, refused
from eval_tools import QUICK, pairs, picture, run_eval, table
from linearsr.evaluation import registry
from linearsr.evaluation.evaluate import measure
from linearsr.evaluation.matching import match
from linearsr.evaluation.records import open_records
from linearsr.evaluation.sources import Case, Images


def test_json(tmp_path):
    pred, hr = pairs(tmp_path)
    report = document(run_eval(pred, hr, *QUICK, "--json"))
    images = [[np.asarray(Image.open(folder / f"00{i}.png")) for folder in (hr, pred)] for i in range(3)]
    expected = [peak_signal_noise_ratio(*both, data_range=255) for both in images]
    found = report["metrics"]["psnr_rgb"]
    assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found["median"] == pytest.approx(np.median(expected), abs=1e-6)
    assert found["std"] == pytest.approx(np.std(expected, ddof=1), abs=1e-6)
    assert (found["count"], found["higher_is_better"], found["convention"]) == (3, True, "RGB, dB")
    assert report["images"] == 3
    assert report["settings"]["metrics"] == ["ssim_y", "psnr_rgb"]
    assert list(report["metrics"]) == ["ssim_y", "psnr_rgb"]
    assert not report["failed"]


def test_table_fits_80_columns_and_names_what_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = done(run_eval(*pairs(tmp_path)))
    assert max(map(len, result.stdout.splitlines())) <= 80
    flat = " ".join(result.stdout.split())
    assert "psnr_y higher Y 16-235, dB" in flat
    assert "not measured on 3 images: niqe: NIQE needs 192x192 pixels or more, not 32x24" in flat


def test_border_is_cut_off(tmp_path):
    pred, hr = pairs(tmp_path, 1)
    whole = [np.array(Image.open(folder / "000.png")) for folder in (pred, hr)]
    for folder, pixels in zip((pred, hr), whole, strict=True):
        Image.fromarray(pixels[4:-4, 4:-4]).save(folder / "000.png")
    inner = document(run_eval(pred, hr, *QUICK, "--json"))["metrics"]
    for folder, pixels in zip((pred, hr), whole, strict=True):
        Image.fromarray(pixels).save(folder / "000.png")
    cut = document(run_eval(pred, hr, *QUICK, "--border", 4, "--json"))["metrics"]
    assert cut == inner
    result = run_eval(pred, hr, *QUICK, "--border", 12)
    assert result.exit_code == 1
    assert "000: 32x24: nothing is left within a border of 12 pixels" in result.stderr


def test_equal_images_are_left_out_of_the_mean(tmp_path):
    pred, hr = pairs(tmp_path, 2)
    picture(pred / "000.png", 0)
    result = run_eval(pred, hr, *QUICK, "-o", tmp_path / "out", "--json")
    found = document(result)["metrics"]["psnr_rgb"]
    assert (found["count"], found["infinite"]) == (1, 1)
    assert table(tmp_path / "out")[0]["psnr_rgb"] == "inf"
    assert "1 image equal to the HR image" in run_eval(pred, hr, *QUICK, "-o", tmp_path / "out").stdout


@pytest.mark.parametrize(
    ("results", "references"),
    [
        (["a", "b"], ["a", "b"]),
        (["a_x4", "b_x2.5"], ["a", "b"]),
        (["a", "b_x4"], ["a", "b"]),
        (["a_x4", "b_x4"], ["a_x4", "b_x4"]),
        (["Canon_1_LR4_x4", "Nikon_LR4_x4"], ["Canon_1_HR", "Nikon_HR"]),
        (["1_SR", "2_SR"], ["1_GT", "2_GT"]),
    ],
)
def test_files_are_matched_by_stem(results, references):
    made, wanted = ([Path(f"{name}.png") for name in names] for names in (results, references))
    assert match(made, wanted) == list(zip(made, wanted, strict=True))


def bad_inputs(folder):
    pred, hr = pairs(folder, 2)
    yield "nothing"
    picture(hr / "more.png")
    yield "linearsr: HR images that have no result of the same stem: 1", hr / "more.png"
    (hr / "more.png").rename(pred / "more.png")
    yield "linearsr: results that have no HR image of the same stem: 1", pred / "more.png"
    (pred / "more.png").unlink()
    picture(pred / "000.jpg")
    picture(pred / "sub/001.png")
    yield "linearsr: files that share a stem: 4; keep one of each", pred / "000.jpg", pred / "sub/001.png"
    (pred / "000.jpg").unlink()
    (pred / "sub/001.png").unlink()
    picture(pred / "001.png", size=(16, 8))
    yield "linearsr: images that are not of one size: 1", f"{pred / '001.png'}: 16x8, {hr / '001.png'}: 32x24"
    (pred / "001.png").unlink()
    (pred / "000.png").unlink()
    yield f"linearsr: {pred}: no images in this folder", ""


def test_files_that_do_not_fit_are_named(tmp_path):
    steps = bad_inputs(tmp_path)
    next(steps)
    for message, *files in steps:
        result = run_eval(tmp_path / "pred", tmp_path / "hr", *QUICK)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert all(str(file) in result.stderr for file in files)


def test_of_many_files_the_first_are_named(tmp_path):
    pred, hr = pairs(tmp_path, 1)
    for i in range(30):
        picture(hr / f"missing{i:02}.png", size=(2, 2))
    lines = run_eval(pred, hr).stderr.splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 10 more"


def test_orientation_counts_for_the_size(tmp_path):
    pred, hr = pairs(tmp_path, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.open(pred / "000.png").convert("RGB")
    upright.transpose(Image.Transpose.ROTATE_90).save(pred / "000.png", exif=exif)
    done(run_eval(pred, hr, *QUICK, "--json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to measure"),
        (("PRED", "HR", "--data", "HR"), "give either PRED_DIR or a model"),
        (("PRED", "--lr", "HR"), "give either PRED_DIR or a model"),
        (("--model", "default"), "--model needs photos"),
        (("PRED", "HR", "--metrics", "psnr"), "unknown metric 'psnr'"),
        (("PRED", "--metrics", "psnr_y"), "psnr_y compares with HR images"),
        (("--data", "HR", "--degrade", "awful"), "--degrade: unknown degradation 'awful'"),
        (("PRED", "HR", "-o", "PRED/out"), "which is measured: choose another place"),
        (("PRED", "nowhere"), "is not a folder"),
        (
            ("PRED", "HR", "--degrade", "mild", "--seed", 1),
            "--degrade and --seed: results in PRED_DIR are made",
        ),
        (("--lr", "HR", "--degrade", "mild"), "--degrade makes LR images, and --lr gives them"),
        (("--data", "HR", "--steps", 8), "has no experts"),
        (("--data", "HR", "--model", "no/such/folder"), "no such folder"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, arguments, message):
    pairs(tmp_path, 1)
    places = {"PRED": "pred", "HR": "hr", "PRED/out": "pred/out"}
    assert message in refused(run_eval(*(tmp_path / places[a] if a in places else a for a in arguments)))


def test_a_broken_image_is_named_and_the_others_are_measured(tmp_path):
    pred, hr = pairs(tmp_path)
    (pred / "001.png").write_bytes((pred / "001.png").read_bytes()[:200])
    result = run_eval(pred, hr, *QUICK, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "001.png" in result.stderr
    assert list(document(result, 1)["failed"]) == ["001"]
    assert [row["image"] for row in table(tmp_path / "out")] == ["000", "002"]


def test_nothing_measured_is_a_failure(tmp_path):
    result = run_eval(pairs(tmp_path)[0], "--json")
    assert not document(result, 1)["failed"]
    assert result.stderr == "linearsr: nothing could be measured: give other images or --metrics\n"
    assert (
        run_eval(*pairs(tmp_path)[1:], tmp_path / "hr", "--metrics", "psnr_y").exit_code == 0
    )  # all are infinite


def test_a_warning_is_one_line_for_all_photos(tmp_path, tiny_model):
    _, hr = pairs(tmp_path)
    tags = tmp_path / "tags.json"
    tags.write_text(json.dumps({f"hr/00{i}.png": ["sky"] for i in range(3)}))
    words = ["--data", hr, "--model", tiny_model, "--tags", tags, "--metrics", "psnr_y", "--json"]
    said = done(run_eval(*words)).stderr
    assert (said.count("\n"), said.startswith("warning: the model ")) == (1, True), said


def test_results_alone_get_what_needs_no_reference(tmp_path):
    picture(tmp_path / "pred/a.png", size=(200, 200), noise=20)
    result = done(run_eval(tmp_path / "pred", "--json"))
    assert list(document(result)["metrics"]) == ["niqe"]


def test_a_model_is_measured_on_what_degrade_writes(tmp_path, tiny_model):
    for i in range(2):
        picture(tmp_path / f"hr/{i}.png", i, size=(34, 25))
    out = tmp_path / "out"
    arguments = ("--data", tmp_path / "hr", "--model", tiny_model, "--degrade", "mild", "--seed", 3)
    report = document(run_eval(*arguments, "--steps", 2, "--fidelity", 0.5, *QUICK, "-o", out, "--json"))
    settings = report["settings"]
    assert (settings["model"], settings["steps"], settings["fidelity"], settings["seed"]) == (
        "tiny",
        2,
        0.5,
        3,
    )
    degraded, upscaled, cropped = (str(tmp_path / name) for name in ("lr", "sr", "crop"))
    commands = (
        ["degrade", str(tmp_path / "hr"), "-o", degraded, "--seed", "3"],
        ["upscale", degraded, "-o", upscaled, "--seed", "3", "--model", str(tiny_model)],
    )
    for command, more in zip(commands, ([], ["--steps", "2", "--fidelity", "0.5"]), strict=True):
        done(linearsr(*command, *more))
    Path(cropped).mkdir()
    for i in range(2):
        Image.open(tmp_path / f"hr/{i}.png").crop((0, 0, 32, 24)).save(tmp_path / f"crop/{i}.png")
    assert document(run_eval(upscaled, cropped, *QUICK, "--json"))["metrics"] == report["metrics"]
    again = document(run_eval(*arguments, "--steps", 2, "--fidelity", 0.5, *QUICK, "-o", out, "--json"))
    assert again["reused"] == 2
    other = run_eval(*arguments, "--steps", 1, "--fidelity", 0.5, *QUICK, "-o", out)
    assert "was measured with steps 2, not 1" in other.stderr


@pytest.mark.parametrize("hr", [True, False])
def test_a_model_is_measured_on_given_lr_images(tmp_path, tiny_model, hr):
    for i in range(2):
        picture(tmp_path / f"lr/{i}_LR4.png", i, size=(8, 8))
        picture(tmp_path / f"hr/{i}_HR.png", i, size=(32, 32))
    photos, metric = (("--data", tmp_path / "hr"), "psnr_y") if hr else ((), "niqe")
    arguments = (*photos, "--lr", tmp_path / "lr", "--model", tiny_model, "--metrics", metric)
    # without HR images, they are too small for what can be measured
    report = document(run_eval(*arguments, "-o", tmp_path / "out", "--json"), 0 if hr else 1)
    assert report["images"] == 2
    assert report["metrics"][metric]["count"] == (2 if hr else 0)
    picture(tmp_path / "hr/0_HR.png", size=(30, 32))
    if hr:
        wrong = run_eval(*arguments)
        assert wrong.exit_code == 2
        assert "images that are not 4 times as large as their LR image: 1" in wrong.stderr


class ManyPairs:
    """3,000 pairs that are made when they are asked for."""

    def __init__(self, file: Path) -> None:
        self.settings: dict[str, object] = {}
        self.cases = [Case(f"{i:04}", file) for i in range(3000)]
        self.peaks: list[int] = []

    def images(self, case: Case) -> Images:
        rng = np.random.default_rng(int(case.name))
        result, reference = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
        self.peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return result, reference


def test_memory_is_flat_over_3000_pairs(tmp_path, one_thread):
    (tmp_path / "file").write_bytes(b"x")
    source = ManyPairs(tmp_path / "file")
    metrics = [registry.METRICS["psnr_y"]]
    with open_records(tmp_path / "out", ["psnr_y"], {}) as records:
        summary = measure(source, metrics, records)
    assert summary["images"] == 3000
    # the pairs together have 70 MiB; KiB on Linux
    assert source.peaks[-1] - source.peaks[200] < 8 * 1024
