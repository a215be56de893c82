"""The page over the model of the package: from the example to a better photo."""

import re

import pytest

from web_tools import until, visitors, web_server


def test_the_example(tmp_path, browser):
    with web_server(tmp_path) as address, visitors(browser, address) as visit:
        page = visit()
        page.click("#example")
        page.wait_for_selector("#status-text:has-text('Enlarging')")
        assert re.match(r"\d:\d\d", page.inner_text("#status-time"))
        page.wait_for_selector("#viewer.both")
        assert page.evaluate("[before.naturalWidth, after.naturalWidth]") == [256, 1024]
        assert page.inner_text("#made").replace("\u00a0", " ") == "1024 × 1024 pixels · ×4"
        # tags do not guide this model, and it takes no steps
        page.click("#settings-title")
        page.click("summary:has-text('Exact values')")
        assert page.is_visible("#fidelity")
        assert [page.is_hidden(part) for part in ("#tags", "#steps", "#steps-hint")] == [True] * 3
        # the photo is kept, only clearer: noise goes from its sky
        until(page, "after.complete")
        before, after = (
            page.evaluate(
                """([id, share]) => {
                    const canvas = new OffscreenCanvas(64, 16).getContext("2d");
                    const image = document.getElementById(id);
                    const [x, y] = [0.34 * image.naturalWidth, 0.02 * image.naturalHeight];
                    canvas.drawImage(image, x, y, 64 * share, 16 * share, 0, 0, 64, 16);
                    const grey = canvas.getImageData(0, 0, 64, 16).data.filter((_, place) => place % 4 === 1);
                    const mean = grey.reduce((sum, value) => sum + value) / grey.length;
                    return [mean, grey.reduce((sum, value) => sum + (value - mean) ** 2, 0) / grey.length];
                }""",
                [which, share],
            )
            for which, share in (("before", 1), ("after", 4))
        )
        assert after[0] == pytest.approx(before[0], abs=3)
        assert after[1] < before[1]
