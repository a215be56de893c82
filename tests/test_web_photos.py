"""The page as somebody meets it who has a bad photo: the first minute, folders, times, sizes and looks."""

import json
import re

import pytest

from linearsr.images.files import IMAGE_SUFFIXES
from web_tools import (
    ENDLESS,
    MAX_PIXELS,
    PATIENCE,
    WEB,
    connected,
    enlarge,
    fill,
    finished,
    give,
    is_firefox,
    photo,
    result_seen,
    saved,
    status,
    until,
)


def test_the_last_result_is_shown_after_a_reload(visit):
    page = finished(visit())
    page.reload()
    result_seen(page)
    assert page.is_hidden("#welcome")
    assert page.evaluate("after.naturalWidth") == 96


def test_nobody_is_disturbed_while_a_photo_is_read(visit):
    page = visit()
    page.evaluate("""() => {
        const decode = HTMLImageElement.prototype.decode;
        const read = new Promise((resolve) => { window.goOn = resolve; });
        HTMLImageElement.prototype.decode = async function () { await read; return decode.call(this); };
    }""")
    give(page, photo("one.png"), photo("two.png"))
    enlarge(page, steps=1)
    page.wait_for_selector("#result:visible")
    page.evaluate("for (const part of document.querySelectorAll('#panel details')) part.open = true")
    page.focus("#steps")
    page.evaluate("goOn()")
    result_seen(page)
    until(page, "document.querySelectorAll('#photos img[src]').length === 2")
    assert page.evaluate("document.activeElement.id") == "steps"
    assert page.is_visible("#result")


def test_a_photo_that_is_too_large_stays_and_can_be_made_smaller(visit):
    page = visit()
    give(page, photo("large.jpg", 400, 250, quality=5))
    status(page, "This server takes up to 0.07 megapixels")
    page.reload()
    status(page, "This photo has 0.1 megapixels (400 × 250).")
    assert page.is_disabled("#start")
    page.click("#shrink")
    page.wait_for_selector("#start:enabled")
    width, height = map(int, re.findall(r"\d+", page.inner_text("#sizes"))[:2])
    assert (width, height) == (334, 209)
    assert width * height <= MAX_PIXELS
    give(page, photo("whole.png", 300, 250))
    status(page, "This photo has")
    # what is seen is all of it
    page.click("#crop")
    page.wait_for_selector("#start:enabled")
    give(page, photo("wide.png", 800, 100))
    status(page, "This photo has")
    page.focus(".pane >> nth=0")
    for _ in range(4):
        page.keyboard.press("+")
    page.click("#crop")
    page.wait_for_selector("#start:enabled")
    width, height = map(int, re.findall(r"\d+", page.inner_text("#sizes"))[:2])
    assert height == 100
    assert 100 < width < 700


DROP_FOLDER = """async () => {
    const canvas = new OffscreenCanvas(20, 16);
    canvas.getContext("2d");
    const blob = await canvas.convertToBlob();
    const file = (name) => ({ isFile: true, name, file: (done) => done(new File([blob], name, { type: blob.type })) });
    const folder = (name, ...parts) => {
        const reads = [parts, []];
        return { isDirectory: true, name, createReader: () => ({ readEntries: (done) => done(reads.shift()) }) };
    };
    const data = new DataTransfer();
    data.items.add(await new Promise((done) => file("a.jpg").file(done)));
    const given = folder("holiday", file("a.jpg"), file("notes.txt"), folder("day two", file("b.jpg")));
    DataTransferItem.prototype.webkitGetAsEntry = () => given;
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
"""What is done where a driver can drop no folder: a script drops what looks like one."""


def test_every_image_of_a_folder_is_taken_by_its_name():
    endings = re.search("ENDINGS = /(.+)/i;", (WEB / "intake.js").read_text(encoding="utf-8"))
    assert [suffix for suffix in sorted(IMAGE_SUFFIXES) if not re.search(endings[1], f"a{suffix}")] == []


def test_the_file_dialog_offers_every_image():
    accepted = re.search(
        'id="files" type="file" accept="([^"]+)"', (WEB / "index.html").read_text(encoding="utf-8")
    )
    known_to_browsers = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp"}
    assert set(accepted[1].split(",")) == IMAGE_SUFFIXES - known_to_browsers | {"image/*"}


def test_a_folder_is_walked_and_what_is_no_photo_named(visit, tmp_path):
    folder = tmp_path / "holiday"
    (folder / "day two").mkdir(parents=True)
    for name, place in (("a.jpg", folder), ("b.jpg", folder / "day two")):
        (place / name).write_bytes(photo(name)["buffer"])
    (folder / "notes.txt").write_text("dear diary")
    page = visit()
    if is_firefox(page):
        page.evaluate(DROP_FOLDER)
    else:
        browser = page.context.new_cdp_session(page)
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            browser.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})
    until(page, "photos.children.length === 2")
    page.wait_for_selector("#start:has-text('Enlarge 2 photos')")
    assert page.inner_text("#notice") == "Not a photo, left out: notes.txt"


def test_a_failed_request_says_what_failed(browser, address):
    page = browser.new_context().new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)", state="attached")
    page.route("**/v1/upscale", lambda route: route.abort())
    give(page, photo())
    page.click("#start")
    status(page, "Could not send the photo: no connection to 127.0.0.1")
    page.unroute("**/v1/upscale")
    page.click("#retry")
    result_seen(page)
    page.route("**/result?*", lambda route: route.abort())
    page.click("#download")
    page.wait_for_selector("#notice:has-text('Could not fetch the result: no connection')")
    page.context.close()


def test_time_goes_on_from_the_first_second(visit):
    page = visit()
    give(page, photo())
    enlarge(page, steps=ENDLESS)
    page.wait_for_selector("#status-time:has-text('left')")
    first = page.evaluate("progress.value")
    until(page, f"progress.value > {first}")
    assert re.match(r"\d+:\d\d · about [\d.]+ .* left", page.inner_text("#status-time"))
    assert (
        page.inner_text("#takes") == "You can close this page and come back. The result is kept for 1 hour."
    )
    page.click("#cancel")
    # within one long step the bar moves by what such photos took before
    shares = page.evaluate("""async () => {
        const { Pace } = await import("./pace.js");
        const pace = new Pace();
        pace.setUp({ id: "a", devices: "b" });
        const input = { width: 1000, height: 1000 };
        const [started, finished] = ["2026-01-01T00:00:00Z", "2026-01-01T00:01:40Z"];
        pace.learn({ started, finished, input, options: { fidelity: 0 } });
        const half = { width: 500, height: 1000 };
        const job = { step: 0, steps: 1, progress: 0, input: half };
        const at = (seconds) => {
            const begun = Date.now() - 1000 * seconds;
            return pace.progress({ state: "running", job, size: half, options: {}, asked: begun, begun });
        };
        const shares = [1, 25, 50, 100].map(at).map(({ share, left }) => [share, left]);
        job.step = 1;
        return [...shares, at(100).left];
    }""")
    assert shares.pop() is None
    assert [round(left) for _, left in shares] == [49, 25, 0, -50]
    assert [share for share, _ in shares] == pytest.approx([0.02, 0.5, 0.963, 0.99], abs=0.005)


def test_what_takes_longer_than_the_server_allows_is_said_before(visit):
    page = finished(visit())
    page.evaluate("""() => {
        const paces = JSON.parse(localStorage.getItem("linearsr-pace"));
        for (const name of Object.keys(paces)) {
            paces[name] = [1e9, 1e3];
            paces[name.replace(/steps.*/, "mean")] = [2e8, 1e3];
        }
        localStorage.setItem("linearsr-pace", JSON.stringify(paces));
    }""")
    page.reload()
    connected(page)
    give(page, photo("slow.png", 100, 40))
    page.click("summary:has-text('Exact values')")
    fill(page, "#steps", "1")
    status(page, "This takes about 1.1 hours, and this server stops after 10 minutes.")
    assert page.inner_text("#takes") == "Takes about 1.1 hours · “Faithful” about 13 minutes"
    page.click("#shrink")
    page.wait_for_selector("#takes:has-text('7 minutes')")
    assert page.is_hidden("#status")


def test_sizes(visit):
    page = visit()
    give(page, photo("small.png", 480, 20))
    page.click("[data-scale='2']")
    page.wait_for_selector("#sizes:has-text('480 × 20 → 960 × 40 pixels')")
    page.click("[data-width='1920']")
    page.wait_for_selector("#sizes:has-text('→ 1920 × 80 pixels')")
    assert page.get_attribute("[data-width='1920']", "aria-pressed") == "true"
    fill(page, "#width", "100")
    assert page.inner_text("#trouble") == "Width: this photo can become 480 to 3840 pixels wide."
    fill(page, "#width", "601")
    page.click("#start")
    result_seen(page)
    assert page.evaluate("after.naturalWidth") == 601
    assert saved(page)[0] == "small_x1.25.png"


def test_looks_are_previews_of_the_place_that_is_seen(visit):
    page = visit()
    # as long as it takes for a photo of 12 megapixels
    page.evaluate("""() => {
        const { decode } = HTMLImageElement.prototype;
        HTMLImageElement.prototype.decode = async function () {
            await new Promise((resolve) => setTimeout(resolve, 900));
            return decode.call(this);
        };
    }""")
    give(page, photo("large.png", 200, 200))
    seen = "[...document.querySelectorAll('#look img')].map((image) => image.hidden ? '' : image.src)"
    until(page, f"{seen}.every(Boolean)")
    first = page.evaluate(seen)
    assert len(set(first)) == 3
    assert page.evaluate("document.querySelector('#look img').naturalWidth") == 384
    page.wait_for_selector("#takes:has-text('Takes about')")
    page.focus(".pane >> nth=0")
    for key in ("2", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    until(page, f"{seen}.every((source) => source && !{json.dumps(first)}.includes(source))")
    page.click("#look label:has-text('Faithful')")
    assert page.input_value("#fidelity") == "1"
    page.click("#look label:has-text('Automatic')")
    assert page.input_value("#fidelity") == ""


def test_two_settings_of_one_photo(visit):
    page = finished(visit(), fidelity=1)
    page.click("#settings-title")
    enlarge(page, scale=2, fidelity=0)
    result_seen(page)
    until(page, "after.naturalWidth === 48")
    page.select_option("#against", label="×4, fidelity 1, 1 step")
    until(page, "before.naturalWidth === 96")
    labels = page.locator(".pane .label").all_text_contents()
    assert labels == ["×4, fidelity 1, 1 step", "×2, fidelity 0, 1 step"]
    page.select_option("#against", label="Original")
    until(page, "before.naturalWidth === 24")


def test_a_key_is_asked_for(visit):
    page = visit()

    def guard(route):
        if route.request.headers.get("authorization") == "Bearer secret":
            return route.continue_()
        return route.fulfill(
            status=401, json={"error": {"code": "unauthorized", "message": "a key is needed"}}
        )

    page.route("**/v1/**", guard)
    page.reload()
    fill(page, "#key-text", "guess")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-wrong:visible")
    fill(page, "#key-text", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#limits:not(:empty)")
    finished(page)
