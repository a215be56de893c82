"""What is saved of the results, and as what."""

import zipfile

from PIL import Image

from web_tools import download, enlarge, fill, finished, give, photo, result_seen, saved


def test_name_and_camera_data_are_chosen_and_remembered(visit):
    page = finished(visit())
    page.click("label:has([value=jpg])")
    assert Image.open(saved(page)[1]).getexif()[0x010F] == "A camera"
    page.check("#strip")
    fill(page, "#pattern", "{name}: {width}x{height} {fidelity}")
    name, file = saved(page)
    assert name == "photo- 96x80 auto.jpg"
    assert not Image.open(file).getexif()
    page.reload()
    result_seen(page)
    assert page.is_checked("#strip")
    assert saved(page)[0] == name


def test_copied(chromium_alone, visit):
    page = finished(visit(permissions=["clipboard-read", "clipboard-write"]))
    page.click("#copy")
    page.wait_for_selector("#copy:has-text('Copied')")
    width = page.evaluate("""async () => {
        const [item] = await navigator.clipboard.read();
        return (await createImageBitmap(await item.getType("image/png"))).width;
    }""")
    assert width == 96


def test_all_results_as_one_file(visit):
    page = visit()
    assert page.is_hidden("#save-all")
    give(page, photo("grün.png", 24), photo("grün.png", 28))
    enlarge(page, steps=1)
    name, file = saved(page, lambda: page.click("#save-all"))
    assert name == "LinearSR.zip"
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["grün_x4.png", "grün_x4 (2).png"]
        assert [Image.open(archive.open(entry)).width for entry in archive.namelist()] == [96, 112]


def test_a_format_that_cannot_hold_the_result(visit):
    page = visit()
    give(page, photo("panorama.jpg", 4100, 5))
    enlarge(page, steps=1)
    result_seen(page)
    page.click("#result label:has([value=webp])")
    page.click("#download")
    page.wait_for_selector("#notice:has-text('16383')")
    download(page, "png")
    assert page.is_hidden("#notice")


def test_the_button_says_that_the_result_is_being_prepared(chromium_alone, visit):
    page = finished(visit())
    held = []
    page.route("**/result?*", lambda route: held.append(route))  # noqa: PLW0108  # playwright marks it
    page.click("#download")
    page.wait_for_selector("#download:disabled:has-text('Preparing…')")
    page.click("label:has([value=jpg])")
    assert page.inner_text("#download") == "Preparing…"
    with page.expect_download():
        held.pop().continue_()
    page.wait_for_selector("#download:enabled:has-text('Download JPG')")
