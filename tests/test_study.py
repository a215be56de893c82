"""`linearsr study`: which files belong together, and what the page tells and hides."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import refused
from linearsr.evaluation.study.page import Scene, cut_scene, find_scenes
from study_tools import METHODS, SCALE, SIDE, build, save, study, write_folders


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return write_folders(tmp_path)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])


def pixels_of(url: str) -> np.ndarray:
    head, _, code = url.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(code))).convert("RGB"))


def test_files_belong_together_by_stem_without_endings(tmp_path):
    grey = np.zeros((8, 8, 3), np.uint8)
    for name in ("lr/a_LR4.png", "lr/b.png", "hr/a_HR.png", "hr/b.png"):
        save(grey, tmp_path / name)
    for name in ("one/a_LR4_x4.png", "one/b_x4.png", "one/c.png", "two/deep/a.webp", "two/b_x1.5.png"):
        save(grey, tmp_path / name)
    scenes = find_scenes({m: tmp_path / m for m in ("one", "two")}, tmp_path / "lr", tmp_path / "hr")
    assert [scene.name for scene in scenes] == ["a", "b"]
    assert scenes[0].lr.name == "a_LR4.png"
    assert scenes[0].hr.name == "a_HR.png"
    assert [path.name for path in scenes[0].results.values()] == ["a_LR4_x4.png", "a.webp"]
    assert [path.name for path in scenes[1].results.values()] == ["b_x4.png", "b_x1.5.png"]


def test_each_trouble_with_files_is_one_line(tmp_path, folders):
    lr = ["--lr", tmp_path / "lr", "-o", tmp_path / "s.html"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("{}")
    build(tmp_path, folders)
    (tmp_path / "study.key.json").rename(tmp_path / "key")
    save(np.zeros((8, 8, 3), np.uint8), tmp_path / "few" / "photo1.png")
    for name in ("photo0.png", "photo0_x4.png"):
        save(np.zeros((8, 8, 3), np.uint8), tmp_path / "double" / name)
    for arguments, status, words in [
        ([folders[0], *lr], 2, "at least two methods"),
        ([*folders], 2, "needs the LR images: --lr LR_DIR"),
        ([folders[0], "folder", *lr], 2, "folder is not NAME=FOLDER"),
        ([folders[0], folders[0], *lr], 2, "the name bicubic is used twice"),
        ([folders[0], f"x={tmp_path}/bicubic", *lr], 2, "bicubic and x are the same folder"),
        ([folders[0], f"x={tmp_path}/none", *lr], 2, "none is not a folder"),
        ([folders[0], f"x={tmp_path}/empty", *lr], 2, "no images in this folder"),
        ([folders[0], f"x={tmp_path}/few", *lr], 2, "LR images that have no result of x of the same stem: 2"),
        ([folders[0], f"x={tmp_path}/double", *lr], 2, "files that share a stem: 2"),
        ([*folders, *lr[:2], "-o", tmp_path / "s.pdf"], 2, "ends in .html"),
        ([*folders, *lr[:2], "-o", tmp_path / "no" / "s.html"], 2, "existing folder"),
        ([*folders, *lr, "--question", "Is linearsr better?"], 2, "names the method LinearSR"),
        ([*folders, *lr, "--key", "k.json"], 2, "--key is used only with --score"),
        (["--score", tmp_path], 2, "--score needs the study's key"),
        (["--score", tmp_path, "--key", tmp_path / "none.json"], 2, "none.json: cannot be read"),
        (["--score", tmp_path, "--key", tmp_path / "text"], 2, "is not a study's key"),
        (["--score", tmp_path, "--key", tmp_path / "key", "--lr", tmp_path], 2, "leave out --lr"),
        (["--score", tmp_path / "lr", "--key", tmp_path / "key"], 2, "no .json files in this folder"),
    ]:
        assert words in refused(study(*arguments), status)


def test_an_existing_key_is_not_lost(tmp_path, folders):
    build(tmp_path, folders)
    (tmp_path / "study.html").unlink()
    assert "study.key.json exists: --overwrite" in refused(
        study(*folders, "--lr", tmp_path / "lr", "-o", tmp_path / "study.html")
    )


def test_an_image_that_fails_is_named_and_the_rest_is_shown(tmp_path, folders):
    (tmp_path / "bicubic" / "photo0_x4.png").write_bytes(b"no image")
    save(np.zeros((SIDE, SIDE + 4, 3), np.uint8), tmp_path / "LinearSR" / "photo1_x4.png")
    made = study(*folders, "--lr", tmp_path / "lr", "-o", tmp_path / "s.html", "--crop", 64, "--json")
    assert made.exit_code == 1
    lines = made.stderr.splitlines()
    assert "photo0_x4.png: is not an image" in lines[0]
    assert "photo1: the results are not of one size: bicubic 96x96, LinearSR 100x96" in lines[1]
    report = json.loads(made.stdout)
    assert report["failed"] == ["photo0", "photo1"]
    assert report["images"] == 1
    assert report["bytes"] == (tmp_path / "s.html").stat().st_size
    for number in range(3):
        save(np.zeros((5, 7, 3), np.uint8), tmp_path / "lr" / f"photo{number}.png")
    none = study(*folders, "--lr", tmp_path / "lr", "-o", tmp_path / "t.html")
    assert none.exit_code == 1
    assert "do not belong to an LR image of 7x5" in none.stderr
    assert not (tmp_path / "t.html").exists()


def test_the_place_is_where_results_differ_most(tmp_path):
    random = np.random.default_rng(3)
    base = random.integers(0, 200, (60, 80, 3), dtype=np.uint8)
    results = {name: base + random.integers(0, 50, base.shape, dtype=np.uint8) for name in "abc"}
    scene = Scene(
        "s",
        save(base[::4, ::4], tmp_path / "lr.png"),
        None,
        {name: save(pixels, tmp_path / f"{name}.png") for name, pixels in results.items()},
    )
    stack = np.stack(list(results.values())).astype(int)
    spread = (stack.max(0) - stack.min(0)).sum(-1)
    best = max(
        ((y, x) for y in range(60 - 32 + 1) for x in range(80 - 32 + 1)),
        key=lambda place: spread[place[0] : place[0] + 32, place[1] : place[1] + 32].sum(),
    )
    shown = cut_scene(scene, 32)
    y, x = best
    assert np.array_equal(shown.results["b"], results["b"][y : y + 32, x : x + 32])
    large = cut_scene(scene, 512)
    assert large.results["a"].shape == large.lr.shape == (60, 80, 3)


def test_the_lr_crop_is_the_same_place(tmp_path):
    random = np.random.default_rng(4)
    lr = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for scale in (4, 1.5):
        size = (round(40 * scale), round(30 * scale))
        large = np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))
        paths = {name: save(large, tmp_path / f"{name}{scale}.png") for name in "ab"}
        shown = cut_scene(Scene("s", save(lr, tmp_path / "lr.png"), None, paths), 33)
        assert np.abs(shown.lr.astype(int) - shown.results["a"]).max() <= 1


def test_an_hr_photo_may_have_a_border_that_degrading_cut_off(tmp_path):
    random = np.random.default_rng(6)
    hr = random.integers(0, 256, (43, 50, 3), dtype=np.uint8)
    lr = save(hr[:40:4, :48:4], tmp_path / "lr.png")
    paths = {name: save(hr[:40, :48], tmp_path / f"{name}.png") for name in "ab"}
    shown = cut_scene(Scene("s", lr, save(hr, tmp_path / "hr.png"), paths), 64)
    assert np.array_equal(shown.hr, shown.results["a"])
    other = save(hr[:36], tmp_path / "other.png")
    with pytest.raises(ValueError, match="s: the results are not of one size: a 48x40, b 48x40, HR 50x36"):
        cut_scene(Scene("s", lr, other, paths), 64)


def test_the_page_hides_the_methods_and_asks_nothing_of_the_network(tmp_path, folders):
    html, key = build(tmp_path, folders, "--title", "Photos", "--hr", tmp_path / "hr")
    pictures = re.compile(r"data:image/webp;base64,[\w+/=]+")
    text = pictures.sub("", html).lower()
    for word in (*METHODS, "photo0", str(tmp_path), "http:", "https:", "//"):
        if word == "//":
            assert not re.search(r'(src|href)\s*=\s*["\']?//', text)
        else:
            assert word.lower() not in text
    for url in pictures.findall(html):
        assert not Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))).info.get("exif")
    assert key.methods == list(METHODS)
    assert "default-src 'none'" in html


def test_the_key_says_which_picture_is_whose(tmp_path, folders):
    html, key = build(tmp_path, folders, "--hr", tmp_path / "hr", "--crop", SIDE)
    data = data_of(html)
    assert data["study"] == key.study
    assert set(data["results"]) == set(key.candidates)
    assert len(key.candidates) == 3 * len(METHODS)
    for name, candidate in key.candidates.items():
        file = tmp_path / candidate.method / f"{candidate.image}_x{SCALE}.png"
        assert np.array_equal(pixels_of(data["results"][name]), np.asarray(Image.open(file)))
    compared = set()
    for pool in data["pools"]:
        for trial in pool:
            ends = [key.candidates[name] for name in trial["results"]]
            assert ends[0].image == ends[1].image
            hr = np.asarray(Image.open(tmp_path / "hr" / f"{ends[0].image}_HR.png"))
            assert np.array_equal(pixels_of(data["scenes"][trial["scene"]]["hr"]), hr)
            compared.add((ends[0].image, frozenset(end.method for end in ends)))
    assert len(compared) == sum(map(len, data["pools"])) == 9
    assert (data["trials"], data["repeats"]) == (9, 2)


def test_the_same_arguments_give_the_same_page(tmp_path, folders):
    first = build(tmp_path, folders)
    assert build(tmp_path, folders) == first


def test_of_many_images_some_are_drawn(tmp_path, folders):
    made = study(
        *folders, "--lr", tmp_path / "lr", "-o", tmp_path / "study.html", "--overwrite", "--images", 2
    )
    assert "2 of 3 images are drawn: --images 3 takes all" in made.stderr
    assert len(data_of((tmp_path / "study.html").read_text())["scenes"]) == 2


def test_texts_cannot_break_the_page(tmp_path, folders):
    evil = "</script><script>alert(1)</script> & <b>"
    html, key = build(tmp_path, folders, "--title", evil, "--question", evil, "--contact", evil)
    assert data_of(html)["questions"] == [evil] == key.questions
    assert html.count("<script") == 2
    assert "<title>&lt;/script&gt;" in html


def test_a_name_is_only_found_as_a_word(tmp_path, folders):
    build(tmp_path, folders, "--question", "Which LinearSRs are bicubical?")
