"""`linearsr study`: which files belong together, what the page tells and hides, and the figures from the answers."""

import base64
import json
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from commands import document, done, refused
from linearsr.evaluation.study.page import Scene, cut_scene, find_scenes
from linearsr.evaluation.study.score import Answers, Key, _student, clustered_interval, score
from study_tools import METHODS, SCALE, SIDE, answers_to, save, study, write_all, write_folders


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return write_folders(tmp_path)


def build(tmp_path: Path, folders: list[str], *more: object) -> tuple[str, Key]:
    page = tmp_path / "study.html"
    done(study(*folders, "--lr", tmp_path / "lr", "-o", page, "--crop", 64, "--overwrite", *more))
    return page.read_text(), Key.model_validate_json((tmp_path / "study.key.json").read_bytes())


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])


def pixels_of(url: str) -> np.ndarray:
    head, _, code = url.partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(code))).convert("RGB"))


# ---- files ----


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


# ---- what is shown ----


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
    shown = cut_scene(scene, 32, "different")
    y, x = best
    assert np.array_equal(shown.results["b"], results["b"][y : y + 32, x : x + 32])
    centre = cut_scene(scene, 32, "centre")
    assert np.array_equal(centre.results["a"], results["a"][14:46, 24:56])
    large = cut_scene(scene, 512, "different")
    assert large.results["a"].shape == large.lr.shape == (60, 80, 3)


def test_the_lr_crop_is_the_same_place(tmp_path):
    random = np.random.default_rng(4)
    lr = random.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for scale in (4, 1.5):
        size = (round(40 * scale), round(30 * scale))
        large = np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))
        paths = {name: save(large, tmp_path / f"{name}{scale}.png") for name in "ab"}
        shown = cut_scene(Scene("s", save(lr, tmp_path / "lr.png"), None, paths), 33, "centre")
        assert np.abs(shown.lr.astype(int) - shown.results["a"]).max() <= 1


def test_an_hr_photo_may_have_a_border_that_degrading_cut_off(tmp_path):
    random = np.random.default_rng(6)
    hr = random.integers(0, 256, (43, 50, 3), dtype=np.uint8)
    lr = save(hr[:40:4, :48:4], tmp_path / "lr.png")
    paths = {name: save(hr[:40, :48], tmp_path / f"{name}.png") for name in "ab"}
    shown = cut_scene(Scene("s", lr, save(hr, tmp_path / "hr.png"), paths), 64, "centre")
    assert np.array_equal(shown.hr, shown.results["a"])
    other = save(hr[:36], tmp_path / "other.png")
    with pytest.raises(ValueError, match="s: the results are not of one size: a 48x40, b 48x40, HR 50x36"):
        cut_scene(Scene("s", lr, other, paths), 64, "centre")


# ---- the page ----


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
    html, key = build(tmp_path, folders, "--hr", tmp_path / "hr", "--crop-at", "centre")
    data = data_of(html)
    assert data["study"] == key.study
    assert set(data["results"]) == set(key.candidates)
    assert len(key.candidates) == 3 * len(METHODS)
    for name, candidate in key.candidates.items():
        file = tmp_path / candidate.method / f"{candidate.image}_x{SCALE}.png"
        assert np.array_equal(pixels_of(data["results"][name]), np.asarray(Image.open(file))[16:80, 16:80])
    compared = set()
    for pool in data["pools"]:
        for trial in pool:
            ends = [key.candidates[name] for name in trial["results"]]
            assert ends[0].image == ends[1].image
            hr = np.asarray(Image.open(tmp_path / "hr" / f"{ends[0].image}_HR.png"))[16:80, 16:80]
            assert np.array_equal(pixels_of(data["scenes"][trial["scene"]]["hr"]), hr)
            compared.add((ends[0].image, frozenset(end.method for end in ends)))
    assert len(compared) == sum(map(len, data["pools"])) == 9
    assert (data["trials"], data["repeats"]) == (9, 2)


def test_the_same_seed_gives_the_same_page_and_another_one_other_ids(tmp_path, folders):
    first, key = build(tmp_path, folders)
    assert build(tmp_path, folders) == (first, key)
    _, other = build(tmp_path, folders, "--seed", 1)
    assert other.study != key.study
    assert not set(other.candidates) & set(key.candidates)


def test_pictures_can_be_smaller_and_fewer(tmp_path, folders):
    lossless, _ = build(tmp_path, folders)
    lossy, _ = build(tmp_path, folders, "--quality", 80)
    assert len(lossy) < 0.8 * len(lossless)
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


# ---- the figures ----


@pytest.fixture
def key(tmp_path: Path, folders: list[str]) -> Key:
    return build(tmp_path, folders, "--question", "Better?", "--question", "Closer to the small photo?")[1]


def crowd(key: Key, size: int = 12) -> list[Answers]:
    """Participants with tastes of their own, and ties."""

    def person(number: int) -> Answers:
        random = np.random.default_rng(number)
        taste = dict(zip(METHODS, random.normal([0, 1, 0.3], 0.7), strict=True))

        def prefer(a: str, b: str, question: int) -> str | None:
            difference = (taste[a] - taste[b]) * (1 - 0.6 * question) + random.logistic()
            return None if abs(difference) < 0.4 else a if difference > 0 else b

        return answers_to(key, f"p{number}", prefer, seed=number)

    return [person(number) for number in range(size)]


def test_shares_are_those_of_a_direct_count(key):
    files = {f"{number}.json": answers for number, answers in enumerate(crowd(key))}
    found = score(files, key)
    assert (found["participants"], found["left_out"], found["repeats"]) == (12, {}, 12 * 2 * 2)
    for number, question in enumerate(found["questions"]):
        wins = {(a, b): [] for a in METHODS for b in METHODS if a != b}
        for answers in files.values():
            for answer in answers.answers:
                if answer.question == number and answer.repeats is None:
                    left, right = key.candidates[answer.left].method, key.candidates[answer.right].method
                    value = {"left": 1, "none": 0.5, "right": 0}[answer.choice]
                    wins[left, right].append((answers.participant, value))
                    wins[right, left].append((answers.participant, 1 - value))
        assert len(question["pairs"]) == 3
        for pair in question["pairs"]:
            values = [value for _, value in wins[pair["method"], pair["over"]]]
            assert pair["share"] == pytest.approx(np.mean(values))
            assert (pair["answers"], pair["ties"]) == (len(values), values.count(0.5))
        shares = [method["share"] for method in question["methods"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1.5)
        for method in question["methods"]:
            mine = [entry for (a, _), entries in wins.items() if a == method["method"] for entry in entries]
            assert method["share"] == pytest.approx(np.mean([value for _, value in mine]))
            groups = [[v for who, v in mine if who == f"p{number}"] for number in range(12)]
            assert method["interval"] == clustered_interval(list(map(sum, groups)), list(map(len, groups)))


@pytest.mark.parametrize("degrees", [3, 4, 5, 9, 30, 1000])
def test_students_quantile_is_scipys(degrees):
    assert _student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=5e-3)


def test_single_answers_give_wilsons_interval():
    for wins, people in [(700, 2000), (3, 2000), (0, 2000), (1999, 2000)]:
        found = clustered_interval([1] * wins + [0] * (people - wins), [1] * people)
        wanted = stats.binomtest(wins, people).proportion_ci(method="wilson")
        assert found == pytest.approx((wanted.low, wanted.high), abs=3e-4)


def test_answers_that_are_copies_count_once():
    once = clustered_interval([1] * 300 + [0] * 200, [1] * 500)
    tenfold = clustered_interval([10] * 300 + [0] * 200, [10] * 500)
    assert tenfold == pytest.approx(once, abs=2e-3)


@pytest.mark.parametrize(("people", "answers", "alike"), [(6, 10, 0.0), (6, 10, 0.3), (15, 20, 0.3)])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_intervals_hold_the_truth_as_often_as_they_say(people, answers, alike, share):
    random = np.random.default_rng(people)
    held = 0
    for _ in range(2000):
        tastes = (
            random.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), people)
            if alike
            else np.full(people, share)
        )
        wins = random.binomial(answers, tastes)
        low, high = clustered_interval(wins.tolist(), [answers] * people)
        held += low <= share <= high
    assert held / 2000 > 0.935


def test_a_bootstrap_of_few_participants_promises_too_much():
    random = np.random.default_rng(1)
    share, alike, people, answers = 0.8, 0.3, 6, 10
    tastes = random.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), (1000, people))
    wins = random.binomial(answers, tastes)
    drawn = wins[np.arange(1000)[:, None, None], random.integers(0, people, (1000, 500, people))]
    low, high = np.quantile(drawn.mean(2) / answers, [0.025, 0.975], axis=1)
    ours = np.array([clustered_interval(row, [answers] * people) for row in wins.tolist()])
    assert np.mean((low <= share) & (share <= high)) < 0.87
    assert np.mean((ours[:, 0] <= share) & (share <= ours[:, 1])) > 0.935


def test_agreement_leaves_a_width_and_few_people_no_interval():
    low, high = clustered_interval([10] * 5, [10] * 5)
    assert 0.8 < low < 0.95
    assert high == 1
    assert clustered_interval([5, 5, 6], [10] * 3) is None


def test_who_is_left_out_and_why(key):
    def better(a: str, b: str, question: int) -> str | None:
        return min(a, b)

    good = answers_to(key, "good", better)
    fickle = answers_to(key, "fickle", better, again=lambda a, b, question: max(a, b))
    half = good.model_copy(update={"participant": "half", "answers": good.answers[:7]})
    sided = good.model_copy(
        update={
            "participant": "sided",
            "answers": [answer.model_copy(update={"choice": "left"}) for answer in good.answers],
        }
    )
    files = {"good": good, "again": good, "fickle": fickle, "half": half, "sided": sided}
    found = score(files, key)
    assert found["left_out"] == {
        "again": "the same participant as good",
        "half": "unfinished: 7 of 22 answers",
        "sided": "always left, 22 times",
    }
    assert (found["participants"], found["repeats"], found["consistent"]) == (2, 8, 4)
    strict = score(files, key, min_consistency=0.5)
    assert strict["left_out"]["fickle"] == "answered 0 of 4 repeats as the first time"
    assert (strict["participants"], strict["consistent"]) == (1, 4)


def test_score_on_the_command_line(tmp_path, key):
    folder = tmp_path / "answers"
    write_all(folder, crowd(key))
    report = document(study("--score", folder, "--key", tmp_path / "study.key.json", "--json"))
    assert report["participants"] == 12
    assert [question["question"] for question in report["questions"]] == key.questions
    first = report["questions"][0]
    assert first["methods"][0]["method"] == "LinearSR"
    low, high = first["methods"][0]["interval"]
    assert 0 < low < first["methods"][0]["share"] < high < 1
    assert {(pair["method"], pair["over"]) for pair in first["pairs"]} == {
        ("bicubic", "LinearSR"),
        ("bicubic", "Rival-7"),
        ("LinearSR", "Rival-7"),
    }
    table = study("--score", *sorted(folder.iterdir())[:3], "--key", tmp_path / "study.key.json")
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "bicubic over LinearSR" in table.stdout
    assert "an interval needs at least four participants" in table.stdout


def test_files_that_cannot_be_used_are_named(tmp_path, key, folders):
    good = answers_to(key, "good", lambda a, b, question: min(a, b))
    record = json.loads(good.model_dump_json())

    def changed(name: str, **fields: object) -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(record | fields))
        return path

    def answer(**fields: object) -> list[dict]:
        return [record["answers"][0] | fields, *record["answers"][1:]]

    other_image = next(
        name
        for name, one in key.candidates.items()
        if one.image != key.candidates[good.answers[0].left].image
    )
    (tmp_path / "broken.json").write_text('{"format": ')
    (tmp_path / "list.json").write_text("[]")
    cases = [
        (tmp_path / "missing.json", "cannot be read: No such file"),
        (tmp_path / "broken.json", "is not a participant's answers: Invalid JSON"),
        (tmp_path / "list.json", "is not a participant's answers"),
        (tmp_path / "study.key.json", "is not a participant's answers"),
        (changed("new.json", version=2), "is not a participant's answers: version"),
        (changed("foreign.json", study="0123"), f"answers another study (0123; the key is for {key.study})"),
        (changed("id.json", answers=answer(left="x")), "answer 1 is about an unknown image"),
        (changed("pair.json", answers=answer(left=other_image)), "compares what the study does not compare"),
        (
            changed("twice.json", answers=[*record["answers"], record["answers"][3]]),
            "answer 23 is there twice",
        ),
        (changed("choice.json", answers=answer(choice="up")), "answers.0.choice"),
        (changed("number.json", answers=answer(trial=99)), "number that the study does not have"),
        (changed("again.json", answers=answer(repeats=3)), "repeats what was not asked"),
    ]
    [fine] = write_all(tmp_path / "fine", [good])
    arguments = [fine, *(path for path, _ in cases)]
    result = study("--score", *arguments, "--key", tmp_path / "study.key.json", "--json")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(cases)
    for line, (path, words) in zip(lines, cases, strict=True):
        assert line.startswith(f"linearsr: {path}: ")
        assert words in line
    report = json.loads(result.stdout)
    assert report["participants"] == 1
    assert report["broken"] == [str(path) for path, _ in cases]
    nothing = study("--score", tmp_path / "list.json", "--key", tmp_path / "study.key.json")
    assert nothing.exit_code == 1
    assert nothing.stderr.splitlines()[-1] == "linearsr: no answers are left to evaluate"


def test_undecided_answers_to_a_forced_study_are_refused(tmp_path, folders):
    _, key = build(tmp_path, folders, "--forced")
    [path] = write_all(tmp_path / "files", [answers_to(key, "p", lambda a, b, question: None)])
    result = study("--score", path, "--key", tmp_path / "study.key.json")
    assert result.exit_code == 1
    assert "is undecided, which the study does not allow" in result.stderr
