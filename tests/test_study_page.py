"""The page of `linearsr study` in a real browser: from the first key to the figures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import document, done
from linearsr.evaluation.study.score import Answers, Key
from study_tools import METHODS, study, write_folders

pytestmark = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

TRIALS, REPEATS, QUESTIONS = 5, 2, 2
STEPS = (TRIALS + REPEATS) * QUESTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    methods = write_folders(folder)
    asked = [item for text in ("Better?", "Closer to the small photo?") for item in ("--question", text)]
    done(
        study(
            *methods,
            *("--lr", folder / "lr", "--hr", folder / "hr", "-o", folder / "study.html", "--crop", 64),
            *("--trials", TRIALS, *asked),
        )
    )
    return folder


@pytest.fixture
def page(folder: Path, browser: Any) -> Iterator[Any]:
    """Opened; fails on any error in the page and on any request."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    page = context.new_page()
    troubles: list[str] = []
    address = (folder / "study.html").as_uri()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("data:", "blob:", address)) else troubles.append(request.url)
        ),
    )
    page.goto(address)
    yield page
    context.close()
    assert troubles == []


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_selector("#work[aria-busy=false], #end:not([hidden])", state="attached")


def count(page: Any) -> str:
    return page.inner_text("#count")


def views(page: Any) -> list[str]:
    return page.evaluate("images.map((image) => image.style.transform)")


def pixels(page: Any) -> list[str]:
    return page.evaluate("images.map((image) => image.src)")


def saved(page: Any) -> dict[str, Any]:
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename.startswith("answers-")
    return json.loads(Path(download.value.path()).read_text())


def test_a_participant_from_the_first_key_to_the_figures(folder, page, tmp_path):
    assert page.inner_text("#amount") == "7"
    press(page, "Enter")
    assert count(page) == "1 of 7, question 1 of 2"
    assert page.inner_text("#question") == "Better?"

    # the three pictures move together
    whole = views(page)
    assert len(set(whole)) == 1
    press(page, "+", "+", "Shift+ArrowRight")
    near = views(page)
    assert len(set(near)) == 1
    assert near != whole
    press(page, "f")
    assert views(page) == whole

    # the original takes the small photo's place
    before = pixels(page)
    press(page, "o")
    assert page.inner_text("#caption") == "original"
    assert [old == new for old, new in zip(before, pixels(page), strict=True)] == [True, False, True]
    press(page, "o")
    assert pixels(page) == before

    press(page, "ArrowLeft")
    assert count(page) == "1 of 7, question 2 of 2"
    assert page.inner_text("#question") == "Closer to the small photo?"
    press(page, " ", "2")
    assert count(page) == "2 of 7, question 2 of 2"

    # back, another answer, and on
    press(page, "Backspace", "Backspace")
    assert count(page) == "1 of 7, question 2 of 2"
    assert page.get_attribute("#choose-none", "aria-pressed") == "true"
    press(page, "ArrowRight", "ArrowRight", "1")
    assert count(page) == "3 of 7, question 1 of 2"
    seen = pixels(page)

    # closed and opened again
    page.reload()
    assert page.inner_text("#start") == "Go on"
    press(page, "Enter")
    assert count(page) == "3 of 7, question 1 of 2"
    assert pixels(page) == seen

    # the space bar means "can't decide" after a click, too
    page.click("#choose-right")
    press(page, " ")
    press(page, *["ArrowLeft", "ArrowRight"] * ((STEPS - 6) // 2))
    assert page.is_visible("#end")
    press(page, "Backspace")
    assert count(page) == "7 of 7, question 2 of 2"
    press(page, "ArrowRight")

    record = saved(page)
    answers = Answers.model_validate(record)
    choices = [answer.choice for answer in answers.answers]
    assert choices == ["left", "right", "right", "left", "right", "none", *["left", "right"] * 4]
    assert answers.answers[0].zoomed
    assert not answers.answers[-1].zoomed
    assert [(answer.trial, answer.question) for answer in answers.answers] == [
        divmod(step, QUESTIONS) for step in range(STEPS)
    ]
    again = [answer for answer in answers.answers if answer.repeats is not None]
    assert len(again) == REPEATS * QUESTIONS
    for answer in again:
        first = answers.answers[answer.repeats * QUESTIONS + answer.question]
        assert (answer.left, answer.right) == (first.right, first.left)
        assert answer.trial > answer.repeats + 1

    file = tmp_path / "answers.json"
    file.write_text(json.dumps(record))
    report = document(study("--score", file, "--key", folder / "study.key.json", "--json"))
    assert (report["participants"], report["repeats"]) == (1, 4)
    assert sum(pair["answers"] for pair in report["questions"][0]["pairs"]) == TRIALS


def test_mouse_and_wheel_zoom_and_move_all_pictures(page):
    press(page, "Enter")
    box = page.locator(".pane").nth(2).bounding_box()
    # a wheel event has whole pixels
    x, y = round(box["x"] + box["width"] * 0.7), round(box["y"] + box["height"] * 0.5)
    point = """([x, y]) => images.map((image) => {
        const box = image.getBoundingClientRect();
        const pane = image.parentElement.getBoundingClientRect();
        return [(x - panes[2].getBoundingClientRect().left + pane.left - box.left) / box.width,
                (y - box.top) / box.height];
    })"""
    before = page.evaluate(point, [x, y])
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    # the event comes to the page some time later
    page.wait_for_selector("#zoom-out:not([disabled])")
    after = page.evaluate(point, [x, y])
    for old, new in zip(before, after, strict=True):
        assert new == pytest.approx(old, abs=1e-3)
    page.mouse.down()
    page.mouse.move(x - 30, y + 20)
    page.mouse.up()
    moved = page.evaluate(point, [x - 30, y + 20])
    for old, new in zip(before, moved, strict=True):
        assert new == pytest.approx(old, abs=1e-3)
    assert len(set(views(page))) == 1
    # not beyond the picture's border
    for _ in range(40):
        page.keyboard.press("Shift+ArrowLeft")
    left, pane = page.evaluate("[images[0], panes[0]].map((item) => item.getBoundingClientRect().left)")
    assert left == pytest.approx(pane, abs=1)


def test_a_pinch_zooms(page):
    press(page, "Enter")
    page.evaluate("""() => {
        const touch = (type, id, x) => panes[1].dispatchEvent(new PointerEvent(type,
            { pointerId: id, pointerType: "touch", clientX: x, clientY: 300, bubbles: true }));
        panes[1].setPointerCapture = () => {};
        touch("pointerdown", 11, 480); touch("pointerdown", 12, 520);
        touch("pointermove", 12, 560); touch("pointermove", 11, 440);
    }""")
    assert page.evaluate("view.zoom") == pytest.approx(3)
    assert len(set(views(page))) == 1


def test_each_seed_has_an_order_of_its_own_and_pairs_are_balanced(folder, page):
    key = Key.model_validate_json((folder / "study.key.json").read_bytes())
    orders = page.evaluate("[...Array(200).keys()].map((seed) => makeTrials(study, seed * 7919 + 1))")
    assert page.evaluate("makeTrials(study, 7920)") == orders[1]
    assert len({json.dumps(order) for order in orders}) == 200
    sides = dict.fromkeys(METHODS, 0)
    for order in orders:
        assert len(order) == TRIALS + REPEATS
        firsts = [trial for trial in order if trial["repeats"] is None]
        pairs = [
            frozenset(key.candidates[trial[side]].method for side in ("left", "right")) for trial in firsts
        ]
        assert sorted(map(pairs.count, set(pairs))) == [1, 2, 2]
        assert len({frozenset((trial["left"], trial["right"])) for trial in firsts}) == TRIALS
        for number, trial in enumerate(order):
            if trial["repeats"] is not None:
                assert trial["repeats"] < number - 1
                assert order[trial["repeats"]]["left"] == trial["right"]
        for trial in firsts:
            sides[key.candidates[trial["left"]].method] += 1
    # a third of 1000 trials each: six standard deviations
    assert all(abs(times - 1000 / 3) < 90 for times in sides.values())


def test_damaged_or_foreign_memory_begins_anew(page):
    press(page, "Enter", "1")
    odd_answers = '{"seed": 1, "participant": "p", "answers": [{"choice": "up"}]}'
    for rubbish in ("{", "[]", '{"seed": 1}', "null", odd_answers):
        page.evaluate("(text) => localStorage.setItem(shelf, text)", rubbish)
        page.reload()
        assert page.inner_text("#start") == "Start"


def test_everything_fits_a_phone_and_has_a_name(page):
    page.set_viewport_size({"width": 360, "height": 640})
    press(page, "Enter")
    boxes = [page.locator(".pane").nth(number).bounding_box() for number in range(3)]
    assert [box["x"] for box in boxes] == [boxes[0]["x"]] * 3
    assert all(box["height"] > 100 for box in boxes)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    for button in page.locator("#work button").all():
        assert (button.get_attribute("aria-label") or button.inner_text()).strip()
        box = button.bounding_box()
        assert box["height"] >= 40
        assert button.evaluate("(element) => element.scrollWidth <= element.clientWidth")
    assert page.locator("#work img:not([alt])").count() == 0
    assert "question 1 of 2: Better?" in page.inner_text("#live")
