"""Take pictures of the web page for the documentation: empty, working, result, error, on a phone, dark.

    python research/web_page_pictures.py docs/figures

Needs Chromium and playwright.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SECONDS = 1500
QUALITY = 60
DESKTOP, PHONE = {"width": 1100, "height": 700}, {"width": 390, "height": 844}


@contextmanager
def server() -> Iterator[str]:
    """Run a server with the default model, and yield its address."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "linearsr.cli.app", "serve", "--port", "0", "--data", data]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                found = next(filter(None, (re.search(r"http\S+", line) for line in process.stderr)))
                yield found.group()
            finally:
                process.terminate()


def large_photo() -> bytes:
    """Return a photo of 72 megapixels, more than the server accepts."""
    file = BytesIO()
    with Image.open(Path(__file__).parents[1] / "examples" / "photo.jpg") as photo:
        photo.resize((9000, 8000)).save(file, "JPEG", quality=50)
    return file.getvalue()


def states(page: Page, address: str) -> Iterator[str]:
    """Lead the page from state to state, and yield the name of the picture of each."""
    page.goto(address)
    page.wait_for_selector("#limits:not(:empty)")
    yield "web-page-empty.webp"
    page.set_input_files("#files", Path(__file__).parents[1] / "examples" / "photo.jpg")
    # wait for the previews, which estimate how long the photo will take
    page.wait_for_selector("#look-hint:has-text('Crisp')")
    page.wait_for_selector("#takes:not(:empty)")
    page.wait_for_selector("#look img >> nth=2")
    page.click("#start")
    page.wait_for_selector("#status-time:has-text('left')")
    page.wait_for_timeout(5000)
    yield "web-page-working.webp"
    page.wait_for_selector("#viewer.both")
    page.wait_for_timeout(1500)  # until the divider comes to rest
    page.evaluate("document.activeElement.blur()")
    page.focus(".pane >> nth=1")
    page.keyboard.press("1")
    page.evaluate("document.activeElement.blur()")
    yield "web-page-result.webp"
    page.emulate_media(color_scheme="dark")
    yield "web-page-dark.webp"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(PHONE)
    page.keyboard.press("Home")
    yield "web-page-phone.webp"
    page.set_viewport_size(DESKTOP)
    page.set_input_files("#files", {"name": "holiday.jpg", "mimeType": "image/jpeg", "buffer": large_photo()})
    page.wait_for_selector("#status.trouble")
    page.wait_for_selector("#shrink:visible")
    page.wait_for_selector("#before:visible")
    yield "web-page-error.webp"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver, server() as address:
        browser = driver.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport=DESKTOP, color_scheme="light")
        page.set_default_timeout(1000 * SECONDS)
        for name in states(page, address):
            shot = Image.open(BytesIO(page.screenshot())).convert("RGB")
            shot.save(arguments.folder / name, quality=QUALITY, method=6)
        browser.close()


if __name__ == "__main__":
    main()
