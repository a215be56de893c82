"""`linearsr study --score`: the figures from the answers, and which answers are left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from commands import document
from linearsr.evaluation.study.score import Answers, Key, _student, clustered_interval, score
from study_tools import METHODS, answers_to, build, study, write_all, write_folders


@pytest.fixture
def key(tmp_path: Path) -> Key:
    questions = ("--question", "Better?", "--question", "Closer to the small photo?")
    return build(tmp_path, write_folders(tmp_path), *questions)[1]


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


def test_files_that_cannot_be_used_are_named(tmp_path, key):
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
