"""The page of the server in a real browser."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

import linearsr
from linearsr.serving.api import create_app
from linearsr.serving.settings import ServeSettings

BROWSERS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
_FIREFOX_PREFERENCES = {"dom.events.testing.asyncClipboard": True}
_NOT_IN_FIREFOX = ("color_scheme", "has_touch", "is_mobile", "permissions", "reduced_motion")
"""What playwright cannot ask of the Firefox that is installed."""

ENDLESS = 20_000
"""Steps of a job that does not end by itself."""

PATIENCE = 90
"""Seconds to wait on a busy machine for what takes one."""

MAX_PIXELS = 70_000
"""Of a photo that the servers of these tests take."""

WEB = Path(linearsr.__file__).parent / "serving" / "web"

Opener = Callable[..., Any]


@contextmanager
def web_server(data: Path, model: Path | None = None, **settings: Any) -> Iterator[str]:
    """Serve in a thread; yields the address."""
    made = ServeSettings(data, None if model is None else str(model), ("cpu",), **settings)
    config = uvicorn.Config(create_app(made), port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            assert thread.is_alive(), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def launched(name: str) -> Iterator[Any]:
    """The browser that is installed under that name: "chromium" or "firefox"."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, BROWSERS[name])), None)
    if path is None:
        pytest.skip(f"needs {name}")
    with playwright.sync_playwright() as driver, TemporaryDirectory() as downloads:
        options = {"executable_path": path, "timeout": 1000 * PATIENCE, "downloads_path": downloads}
        if name == "firefox":
            options |= {"channel": "moz-firefox", "firefox_user_prefs": _FIREFOX_PREFERENCES}
        try:
            browser = getattr(driver, name).launch(**options)
        except playwright.Error as error:
            # Debian's Firefox of 2025
            if "unknown command" in str(error):
                pytest.skip(f"{path} is too old for this version of playwright")
            raise
        browser.downloads = Path(downloads)
        yield browser
        browser.close()


def is_firefox(page: Any) -> bool:
    return bool(page.context.browser.browser_type.name == "firefox")


def saved(page: Any, press: Callable[[], None] | None = None) -> tuple[str, BytesIO]:
    """What pressing a button downloads, "Download" if no other is pressed: name and content of the file."""
    press = press or partial(page.click, "#download")
    if not is_firefox(page):
        with page.expect_download() as file:
            press()
        return file.value.suggested_filename, BytesIO(Path(file.value.path()).read_bytes())
    # playwright hears nothing of downloads in Firefox
    folder, end = page.context.browser.downloads, time.monotonic() + PATIENCE
    press()
    while not (files := list(folder.iterdir())) or not all(file.stat().st_size for file in files):
        assert time.monotonic() < end, "nothing was downloaded"
        page.wait_for_timeout(200)
    (file,) = files
    content = file.read_bytes()
    file.unlink()
    return file.name, BytesIO(content)


@contextmanager
def visitors(browser: Any, address: str) -> Iterator[Opener]:
    """Opens the page as another person at each call; at the end nothing may have gone wrong or elsewhere."""
    contexts: list[Any] = []
    troubles: list[str] = []

    def see(kind: str, text: str) -> None:
        # a refusal is an answer; the browser reports each
        if kind == "error" and "responded with a status of 4" not in text:
            troubles.append(text)

    def go_out(url: str) -> None:
        if not url.startswith((address, "blob:", "data:image/")):
            troubles.append(url)

    def visit(width: int = 1280, height: int = 800, **options: Any) -> Any:
        if browser.browser_type.name == "firefox":
            options = {name: value for name, value in options.items() if name not in _NOT_IN_FIREFOX}
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: see(message.type, message.text))
        page.on("request", lambda request: go_out(request.url))
        page.goto(address)
        connected(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert troubles == []


def connected(page: Any) -> None:
    """Wait until the page takes photos: it knows what the server takes."""
    page.wait_for_selector("#limits:not(:empty)", state="attached")


def photo(name: str = "photo.jpg", width: int = 24, height: int = 20, **options: Any) -> dict[str, Any]:
    """A file as a person gives it to the page."""
    rng = np.random.default_rng(width)
    file = BytesIO()
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, Image.registered_extensions()[Path(name).suffix], **options)
    return {"name": name, "mimeType": "image/" + Path(name).suffix[1:], "buffer": file.getvalue()}


def give(page: Any, *files: dict[str, Any]) -> None:
    page.set_input_files("#files", list(files))
    page.wait_for_selector("#start")


def fill(page: Any, selector: str, text: str) -> None:
    """Write over what stands in a field, by keys: playwright's own `fill` adds to a number in Firefox."""
    page.wait_for_selector(selector)  # a hidden field would let the keys pass by
    page.focus(selector)
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.type(text)


def enlarge(page: Any, **settings: float) -> None:
    if settings:
        page.evaluate("for (const part of document.querySelectorAll('#panel details')) part.open = true")
    for name, value in settings.items():
        fill(page, f"#{name}", str(value))
    page.click("#start")


def result_seen(page: Any) -> None:
    page.wait_for_selector("#viewer.both")


def status(page: Any, text: str) -> None:
    page.wait_for_selector(f"#status-text:has-text('{text}')")


def until(page: Any, condition: str) -> None:
    """Like `page.wait_for_function`, which a strict policy forbids."""
    end = time.monotonic() + PATIENCE
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"never so: {condition}"
        page.wait_for_timeout(50)


def finished(page: Any, **settings: float) -> Any:
    """A page with the result of a photo of 24 x 20 pixels."""
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    give(page, photo(exif=exif))
    enlarge(page, steps=1, **settings)
    result_seen(page)
    return page


def download(page: Any, format: str) -> tuple[str, Image.Image]:
    """The result in a format."""
    page.click(f"#result label:has([value={format}])")
    name, file = saved(page)
    return name, Image.open(file)
