"""Picture of the web page with its example enlarged, as the documentation shows it.

    python research/web_page_picture.py docs/figures/web-page.png

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
from playwright.sync_api import Browser, sync_playwright

SECONDS = 600
COLOURS = 96


@contextmanager
def server() -> Iterator[str]:
    """The address of a server with the default model."""
    with tempfile.TemporaryDirectory() as data:
        command = [sys.executable, "-m", "linearsr.cli.app", "serve", "--port", "0", "--data", data]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                found = next(filter(None, (re.search(r"http\S+", line) for line in process.stderr)))
                yield found.group()
            finally:
                process.terminate()


def picture(browser: Browser, address: str) -> bytes:
    page = browser.new_page(viewport={"width": 1100, "height": 700})
    page.set_default_timeout(1000 * SECONDS)
    page.goto(address)
    page.click("#example")
    page.wait_for_selector("#viewer.both")
    page.wait_for_timeout(1500)  # the divider comes to rest
    page.evaluate("document.activeElement.blur()")
    box = page.locator("#viewer").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] // 2, box["y"] + 0.55 * box["height"])
    page.mouse.wheel(0, -480)
    page.wait_for_selector("#fit:not([disabled])")
    return page.screenshot()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver, server() as address:
        browser = driver.chromium.launch(executable_path=chromium)
        shot = Image.open(BytesIO(picture(browser, address))).convert("RGB")
        browser.close()
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(arguments.target, optimize=True)


if __name__ == "__main__":
    main()
