"""The page of `linearsr serve` in a real browser: from a photo to its download, and what can come between."""

import re
from dataclasses import replace

import pytest
from PIL import Image

from linearsr.guidance.own_tagger import OwnTagger, OwnTaggerConfig
from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from tiny_model import build
from web_tools import (
    ENDLESS,
    MAX_PIXELS,
    download,
    enlarge,
    fill,
    give,
    photo,
    result_seen,
    saved,
    status,
    until,
    web_server,
)

WORDS = ("ivy", "moss", "sky")


MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A tiny model that is guided by tags, and whose tagger sees everything but moss in everything."""
    folder = tmp_path_factory.mktemp("guided_model")
    pipe = build()
    pipe.config = replace(pipe.config, use_tags=True)
    pipe.guidance = TagGuidance(TagGuidanceConfig(WORDS, channels=16)).eval()
    seen = OwnTaggerConfig(WORDS, (0.0, None, 0.0), num_blocks=2, image_size=16)
    pipe.tagger = OwnTagger(seen).eval()
    pipe.save_pretrained(folder)
    limits = {"max_queue": 1, "max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS, "max_steps": 2 * ENDLESS}
    with web_server(tmp_path_factory.mktemp("data"), folder, **limits) as address:
        yield address


FOCUSED = (
    "document.activeElement.id || document.activeElement.value || document.activeElement.textContent.trim()"
)


CONTROLS = f"""[...document.querySelectorAll("button, summary, select, input, [tabindex='0']")]
    .filter((control) => control.checkVisibility() && !control.disabled)
    .filter((control) => control.type !== "radio" || control.checked)
    .map((control) => {FOCUSED.replace("document.activeElement", "control")})"""


def chips(page, where):
    return [text.rstrip("×+") for text in page.locator(f"#{where} li").all_text_contents()]


def test_steps_left_empty_are_for_the_model_to_decide(visit):
    page = visit()
    give(page, photo())
    assert page.input_value("#steps") == ""
    page.click("summary:has-text('Exact values')")
    fill(page, "#steps", "3")
    fill(page, "#steps", "")
    with page.expect_response(lambda response: response.status == 202) as queued:
        enlarge(page)
    options = queued.value.json()["options"]
    assert (options["scale"], options.get("steps")) == (4, None)
    result_seen(page)
    assert "· 4 steps" in page.inner_text("#made").replace("\xa0", " ")


def test_from_a_photo_to_its_download(visit):
    page = visit()
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    give(page, photo(exif=exif, dpi=(300, 300)))
    page.wait_for_selector("#sizes:has-text('24 × 20 → 96 × 80 pixels')")
    enlarge(page, scale=3, steps=2, fidelity=0.5)
    result_seen(page)
    assert page.evaluate("[before.naturalWidth, after.naturalWidth]") == [24, 72]
    assert (
        page.inner_text("#made")
        .replace("\xa0", " ")
        .startswith("72 × 60 pixels · ×3 · fidelity 0.5 · 2 steps")
    )
    assert page.inner_text("#live") == "photo.jpg: ready, 72 × 60 pixels"
    assert page.title() == "✓ Ready · LinearSR"
    assert re.fullmatch(r"Lossless, keeps transparency\. 0\.0\d+ MB\.", page.inner_text("#format-note"))
    for format in ("png", "jpg", "webp", "tiff"):
        name, result = download(page, format)
        assert name == f"photo_x3.{'tif' if format == 'tiff' else format}"
        assert result.format == {"jpg": "JPEG"}.get(format, format.upper())
        assert result.size == (72, 60)
        assert result.getexif()[0x010F] == "A camera"


def test_dropped_and_pasted(chromium_alone, visit):
    page = visit()
    for event, carrier in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([event, carrier]) => {
                const data = new DataTransfer();
                const canvas = new OffscreenCanvas(20, 16);
                canvas.getContext("2d");
                data.items.add(new File([await canvas.convertToBlob()], `${event}.png`, { type: "image/png" }));
                const kind = { drop: DragEvent, paste: ClipboardEvent }[event];
                document.body.dispatchEvent(new kind(event, { [carrier]: data, bubbles: true, cancelable: true }));
            }""",
            [event, carrier],
        )
        page.wait_for_selector(f"#photo-name:has-text('{event}.png')")
        page.wait_for_selector("#sizes:has-text('20 × 16')")
    assert page.locator("#photos li").count() == 2
    assert page.inner_text("#start") == "Enlarge 2 photos"
    page.click("#start")
    until(page, "document.querySelectorAll('#photos [aria-label$=ready]').length === 2")


def test_tags_are_seen_and_edited(visit):
    page = visit()
    give(page, photo())
    page.wait_for_selector("#chosen li")
    assert sorted(chips(page, "chosen")) == ["ivy", "sky"]
    assert page.evaluate("[...vocabulary.options].map((option) => option.value)") == list(WORDS)
    page.click("[aria-label='Remove sky']")
    assert chips(page, "chosen") == ["ivy"]
    assert chips(page, "found") == ["sky"]
    assert page.inner_text("#live") == "sky removed"
    fill(page, "#new-tag", "Moss, zeppelin")
    page.keyboard.press("Enter")
    assert chips(page, "chosen") == ["ivy", "moss", "zeppelin"]
    enlarge(page, steps=1)
    result_seen(page)
    assert "guided by ivy, moss" in page.inner_text("#made").replace("\xa0", " ")
    assert "does not know: zeppelin" in page.inner_text("#warnings")
    assert b"moss" in download(page, "jpg")[1].info["xmp"]


def test_cancel_and_try_again(visit):
    page = visit()
    give(page, photo())
    enlarge(page, steps=ENDLESS)
    page.wait_for_selector("#progress[value]")
    status(page, f"of {ENDLESS}")
    assert page.evaluate("document.activeElement.id") == "cancel"
    page.click("#cancel")
    status(page, "Cancelled")
    assert page.is_hidden("#progress")
    fill(page, "#steps", "1")
    page.click("#retry")
    result_seen(page)


def test_what_is_no_photo_or_too_large_is_named(visit):
    page = visit()
    give(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"dear diary"})
    status(page, "This is not a photo.")
    assert page.is_disabled("#start")
    assert page.is_hidden("#unseen")
    give(page, {"name": "damaged.jpg", "mimeType": "image/jpeg", "buffer": b"dear diary"})
    page.wait_for_selector("#unseen:has-text('If the server can read it')")
    enlarge(page)
    page.wait_for_selector("#status.trouble:has-text('This file cannot be read')")
    assert page.inner_text("#live").startswith("damaged.jpg: ")
    until(page, "unseen.hidden")
    give(page, photo("large.jpg", 300, 250, quality=5))
    status(page, "This photo has 0.075 megapixels (300 × 250).")
    assert page.is_disabled("#start")
    give(page, {"name": "heavy.png", "mimeType": "image/png", "buffer": bytes(MAX_BYTES + 1)})
    status(page, "This file is")
    give(page, photo("good.png", 200, 100))
    fill(page, "#scale", "9")
    assert page.is_disabled("#start")
    assert page.inner_text("#trouble").startswith("Scale: ")
    fill(page, "#scale", "8")
    page.wait_for_selector("#trouble:has-text('Choose a smaller scale')")
    enlarge(page, scale=2)
    result_seen(page)


def test_two_people_and_a_full_queue(visit):
    first, second, third = visit(), visit(), visit()
    give(first, photo("first.png", 24))
    enlarge(first, steps=ENDLESS)
    status(first, f"of {ENDLESS}")
    give(second, photo("second.png", 28))
    enlarge(second, steps=1)
    status(second, "Next in the queue")
    give(third, photo("third.png", 32))
    enlarge(third, steps=1)
    status(third, "The server is full. Trying again in")
    first.click("#cancel")
    for page, side in ((second, 112), (third, 128)):
        result_seen(page)
        assert page.evaluate("after.naturalWidth") == side
    assert first.locator("#photos li").count() == second.locator("#photos li").count() == 1


def test_photos_of_an_earlier_visit(visit):
    page = visit()
    give(page, photo("one.jpg", 24), photo("two.jpg", 28))
    enlarge(page, steps=1)
    until(page, "document.querySelectorAll('#photos [aria-label$=ready]').length === 2")
    page.reload()
    page.click("#photos [aria-label='two.jpg: ready']")
    # the other photo's pictures are there until those of this one have come
    until(page, "before.naturalWidth === 28 && after.naturalWidth === 112")
    # one under way is followed to its end
    page.click("#settings-title")
    enlarge(page, steps=ENDLESS)
    status(page, f"of {ENDLESS}")
    page.reload()
    page.click("#photos [aria-label='two.jpg: under way']")
    page.click("#cancel")
    status(page, "Cancelled")
    # removed here is removed there
    page.on("dialog", lambda dialog: dialog.accept())
    with page.expect_response(lambda response: response.request.method == "DELETE") as removed:
        page.focus("#photos [aria-label='one.jpg: ready']")
        page.keyboard.press("Delete")
    assert removed.value.status == 204
    page.click("#remove-all")
    page.wait_for_selector("#tray", state="hidden")
    page.reload()
    assert page.is_hidden("#tray")


def test_results_that_the_server_has_removed(chromium_alone, visit):
    page = visit()
    give(page, photo())
    enlarge(page, steps=1)
    with page.expect_response(re.compile("/result")) as seen:
        result_seen(page)
    page.request.delete(seen.value.url.split("/result")[0])
    page.reload()
    page.click("#photos button")
    status(page, "The server has removed this result")
    page.click("#retry")
    result_seen(page)


def test_fits_a_phone(visit):
    page = visit(360, 640, has_touch=True, is_mobile=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    give(page, photo("a-very-long-name-that-no-phone-can-show-in-one-line-of-text.jpg"))
    # to be reached without scrolling
    assert page.locator("#start").bounding_box()["y"] < 640 - 40
    page.click("#start")
    result_seen(page)
    assert page.evaluate(fits)
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert min(box["height"], box["width"]) >= 24, button
    page.click("#mode-beside")
    first, second = (page.locator(".pane").nth(number).bounding_box() for number in (0, 1))
    assert second["y"] >= first["y"] + first["height"]


def test_keyboard_alone(chromium_alone, visit):
    page = visit()
    page.keyboard.press("Tab")
    names = []
    while not names or names[-1] != "example":
        names.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    assert names == ["open-help", "choose", "example"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    until(page, "document.activeElement === divider")
    # from there Tab comes to every control, of a group of radio buttons to the one that is chosen
    page.evaluate("for (const part of document.querySelectorAll('#panel details')) part.open = true")
    wanted = set(page.evaluate(CONTROLS))
    reached = []
    while not wanted <= set(reached):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        assert len(reached) < 100, wanted - set(reached)
    while page.evaluate(FOCUSED) != "download":
        page.keyboard.press("Shift+Tab")
        reached.append(page.evaluate(FOCUSED))
        assert len(reached) < 200
    name, _ = saved(page, lambda: page.keyboard.press("Enter"))
    assert name == "example_x4.png"
    # every control has a name
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, progress, output, [role=group]")]
        .filter((element) => element.checkVisibility() && !(element.ariaLabel || element.textContent.trim()
            || element.labels?.length)).map((element) => element.id)""")
    assert unnamed == []
