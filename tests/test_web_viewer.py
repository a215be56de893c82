"""The two pictures of the page: divider, zoom, parts of a large result."""

import re

import pytest

from web_tools import WEB, connected, enlarge, finished, give, photo, result_seen, until


def lengths(page, *names):
    style = "getComputedStyle(document.getElementById('viewer'))"
    return [
        float(page.evaluate(f"{style}.getPropertyValue('--{name}')").removesuffix("px")) for name in names
    ]


def boxes(page):
    return page.evaluate("""() => [...document.querySelectorAll('.pane img:first-child')].map((image) => {
        const [inner, outer] = [image, image.parentElement].map((element) => element.getBoundingClientRect());
        return [inner.left - outer.left, inner.top - outer.top, inner.width, inner.height].map(Math.round);
    })""")


def test_divider_by_pointer_and_keys(visit):
    page = finished(visit())
    # the divider comes to rest in the middle, and has the focus
    until(page, "getComputedStyle(viewer).getPropertyValue('--share') === '0.5'")
    until(page, "document.activeElement === divider")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert lengths(page, "share") == [0.52]
    assert page.get_attribute("#divider", "aria-valuetext") == "52% before"
    page.keyboard.press("Home")
    assert lengths(page, "share") == [0]

    box = page.locator("#viewer").bounding_box()
    left, right = lengths(page, "from", "to")
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + left + 5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + left + 0.75 * (right - left), middle)
    page.mouse.up()
    assert lengths(page, "share")[0] == pytest.approx(0.75, abs=0.01)
    # each half is cut at the divider
    cut = page.evaluate("getComputedStyle(after.parentElement).clipPath")
    assert float(re.findall(r"[\d.]+", cut)[-1]) == pytest.approx(left + 0.75 * (right - left), abs=6)


def test_zoom_and_move_both_pictures_together(visit):
    page = finished(visit())
    whole = boxes(page)
    assert whole[0] == whole[1]
    box = page.locator("#viewer").bounding_box()
    x, y = round(box["x"] + 0.4 * box["width"]), round(box["y"] + 0.6 * box["height"])
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    page.wait_for_selector("#fit:not([disabled])")
    near = boxes(page)
    assert near[0] == near[1]
    # the point under the pointer stays
    for place, (start, side) in ((x - box["x"], (0, 2)), (y - box["y"], (1, 3))):
        share = (place - whole[0][start]) / whole[0][side]
        assert near[0][start] + share * near[0][side] == pytest.approx(place, abs=2)
    page.mouse.down()
    page.mouse.move(x + 30, y + 20)
    page.mouse.up()
    assert boxes(page) == [[near[0][0] + 30, near[0][1] + 20, *near[0][2:]]] * 2

    page.click("#mode-beside")
    beside = boxes(page)
    assert beside[0] == beside[1]
    first, second = (page.locator(".pane").nth(number).bounding_box() for number in (0, 1))
    assert second["x"] >= first["x"] + first["width"]
    page.focus(".pane >> nth=1")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    assert boxes(page)[0] == boxes(page)[1] != beside[0]
    page.keyboard.press("0")
    assert page.is_disabled("#fit")
    page.click("#actual")
    assert page.inner_text("#zoom") == "100%"


@pytest.mark.parametrize("mode", ["slider", "beside"])
def test_pinched(chromium_alone, visit, mode):
    page = visit(390, 844, has_touch=True, is_mobile=True)
    # without exact values, whose fields would push the viewer off the screen
    give(page, photo())
    enlarge(page)
    result_seen(page)
    page.click(f"#mode-{mode}")
    whole = boxes(page)
    box = page.locator("#viewer").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser = page.context.new_cdp_session(page)

    def touch(kind, *fingers):
        points = [{"x": place[0], "y": place[1], "id": number} for number, place in enumerate(fingers)]
        browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    # across the divider, and across the border between two panes
    for right, down in ((1, 0), (0, 1)):
        for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 60)):
            fingers = [(x + side * apart * right, y + side * apart * down) for side in (-1, 1)]
            if kind == "touchStart":
                touch(kind, fingers[0])
            touch(kind, *fingers)
        touch("touchEnd")
        until(page, "!fit.disabled")
        near = boxes(page)
        assert near[0] == near[1]
        assert near[0][2] == pytest.approx(3 * whole[0][2], rel=0.1)
        page.click("#fit")
    assert page.evaluate("visualViewport.scale") == 1


def test_pieces_of_an_event_stream_and_views(visit):
    page = visit()
    page.evaluate("""async () => {
        const { read } = await import("./events.js");
        const text = ": hello\\r\\n\\r\\nevent: progress\\ndata: {\\"a\\": \\"é\\"}\\n\\ndata: 1\\ndata: 2\\n\\n";
        const bytes = new TextEncoder().encode(text);
        for (let first = 0; first <= bytes.length; first++)
            for (let second = first; second <= bytes.length; second += 3) {
                const parts = [bytes.slice(0, first), bytes.slice(first, second), bytes.slice(second)];
                const put = (to) => { parts.forEach((part) => to.enqueue(part)); to.close(); };
                const got = await Array.fromAsync(read(new ReadableStream({ start: put })));
                if (got.join("|") !== '{"a": "é"}|1\\n2') throw new Error(`${first} ${second}: ${got}`);
            }
    }""")
    page.evaluate("""async () => {
        const { View } = await import("./view.js");
        const random = (least, most) => least + Math.random() * (most - least);
        for (let round = 0; round < 300; round++) {
            const view = new View();
            const pane = { width: random(50, 900), height: random(50, 900) };
            view.resize(pane, { width: random(1, 9000), height: random(1, 9000) });
            for (let turn = 0; turn < 10; turn++) {
                view.zoomBy(random(0.3, 4), random(-200, 200), random(-200, 200));
                view.moveBy(random(-500, 500), random(-500, 500));
                const { left, top, width, height } = view.box;
                for (const [start, side, pane] of [[left, width, view.pane.width], [top, height, view.pane.height]]) {
                    const empty = Math.max(start, 0) + Math.max(pane - start - side, 0);
                    if (Math.abs(empty - Math.max(pane - side, 0)) > 1e-6 * pane) throw new Error(JSON.stringify(view));
                }
            }
        }
    }""")


def shows_small(page):
    """From now on a page shows every result as a picture of 24 x 20 pixels, and parts over it."""
    script = (WEB / "pictures.js").read_text(encoding="utf-8")
    large = script.replace("16e6", "1e3")
    assert large != script
    page.route("**/pictures.js", lambda route: route.fulfill(body=large, content_type="text/javascript"))
    small = photo()["buffer"]
    page.route("**/preview?region=", lambda route: route.fulfill(body=small, content_type="image/jpeg"))
    page.reload()
    connected(page)
    return page


def test_a_large_result_is_shown_at_full_size_where_one_looks(chromium_alone, visit):
    page = finished(shows_small(visit()))
    part = page.locator("#after-part")
    part.wait_for()
    seen = "(id) => { const image = document.getElementById(id); return image.naturalWidth; }"
    assert [page.evaluate(seen, id) for id in ("after", "after-part")] == [24, 96]
    page.focus(".pane >> nth=1")
    for _ in range(4):
        page.keyboard.press("+")
    until(page, "document.getElementById('after-part').naturalWidth < 48")
    part.wait_for()
    # where it lies in the whole picture, in pixels of the result
    whole, box, pane = (
        page.locator(place).bounding_box() for place in ("#after", "#after-part", ".pane >> nth=1")
    )
    pixel = whole["width"] / 96
    assert box["width"] / pixel == pytest.approx(page.evaluate(seen, "after-part"), abs=0.01)
    assert box["x"] == pytest.approx(pane["x"], abs=pixel)
    assert box["x"] + box["width"] == pytest.approx(pane["x"] + pane["width"], abs=pixel)


def test_parts_of_a_large_result_are_laid_over_it_alone(chromium_alone, visit):
    page = finished(shows_small(visit()))
    page.click("#settings-title")
    enlarge(page, scale=2)
    until(page, "document.getElementById('after-part').naturalWidth === 48")
    page.select_option("#against", label="×4, 1 step")
    until(page, "document.getElementById('before-part').naturalWidth === 96")
    held = []

    def hold(route):
        held.append(route)

    # another result is chosen before the view was still, and comes late
    page.click("#photos button >> nth=1")
    until(page, "document.getElementById('after-part').naturalWidth === 96")
    page.route("**/preview?region=", hold)
    page.focus(".pane >> nth=1")
    page.keyboard.press("+")
    page.click("#photos button >> nth=0")
    page.wait_for_timeout(800)
    page.unroute("**/preview?region=", hold)
    held.pop().fallback()
    until(page, "document.getElementById('after-part').naturalWidth === 48")
    assert page.is_hidden("#notice")
    # a photo without a result is chosen before a part has come
    part = re.compile(r"/preview\?region=\d")
    page.route(part, hold)
    page.focus(".pane >> nth=1")
    with page.expect_request(part):
        page.keyboard.press("+")
    give(page, photo("next.png", 28))
    until(page, "before.naturalWidth === 28")
    held.pop().continue_()
    page.wait_for_timeout(300)
    assert page.is_hidden("#after-part")


def test_zoom_by_keys(visit):
    page = finished(visit())
    for key, zoom in (("1", "100%"), ("2", "200%"), ("1", "100%")):
        page.focus(".pane >> nth=1")
        page.keyboard.press(key)
        assert page.inner_text("#zoom") == zoom
        boxes = page.evaluate("[before, after].map((image) => image.getBoundingClientRect().width)")
        assert boxes == [96 * int(key)] * 2
    page.click("#double")
    assert page.inner_text("#zoom") == "200%"
