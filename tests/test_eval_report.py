"""The HTML report: one file, nothing loaded from elsewhere, the parts of images that differ most."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from commands import done
from eval_tools import pairs, picture, run_eval
from linearsr.evaluation.records import Row
from linearsr.evaluation.report import most_different, worth_showing
from linearsr.evaluation.sources import Images

VOID = {"meta", "img", "input", "br"}
QUICK = ("--metrics", "psnr_y,ssim_y")


class Page(HTMLParser):
    """The tags and attributes of a page whose tags are all closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    pred, hr = pairs(tmp_path, 20)
    picture(pred / "<b>&.png", 99, noise=9)
    picture(hr / "<b>&.png", 99)
    done(run_eval(pred, hr, *QUICK, "-o", tmp_path / "out"))
    return (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_one_file_that_loads_nothing(page):
    found = Page(page)
    assert all(image["src"].startswith("data:image/webp;base64,") for image in found.all("img"))
    assert not found.all("link")
    assert all("src" not in script for script in found.all("script"))
    assert not re.search(r"https?://|url\(|@import", page)
    policy = next(meta["content"] for meta in found.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_it_shows(page):
    found = Page(page)
    assert len(found.all("figure")) == 12
    assert len(found.all("img")) == 24
    assert len([image for image in found.all("img") if image["alt"]]) == 24
    ranges = [control for control in found.all("input") if control["type"] == "range"]
    assert len(ranges) == 12
    assert all(control["aria-label"] for control in ranges)
    assert "prefers-color-scheme: dark" in page
    text = " ".join(found.text)
    assert all(word in text for word in ("psnr_y", "worst, by psnr_y", "best, by psnr_y", "<b>&"))
    assert "$" not in text
    pixels = Image.open(io.BytesIO(base64.b64decode(found.all("img")[0]["src"].partition(",")[2])))
    assert pixels.size == (32, 24)


def test_the_most_different_part_is_found():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 200, (64, 96, 3), dtype=np.uint8)
    result = reference.copy()
    result[40:48, 72:80] += 50
    lr = reference[::4, ::4]
    parts = dict(most_different(Images(result, reference, lr), side=16))
    assert {kind: part.shape for kind, part in parts.items()} == {
        "LR": (4, 4, 3),
        "result": (16, 16, 3),
        "HR": (16, 16, 3),
    }
    assert (parts["result"] != parts["HR"]).sum() == 8 * 8 * 3
    assert np.array_equal(parts["HR"][::4, ::4], parts["LR"])


@pytest.mark.parametrize("size", [(5, 7), (16, 3), (100, 40)])
def test_images_smaller_than_the_part(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    parts = dict(most_different(Images(image, np.roll(image, 1), None), side=64))
    assert parts["result"].shape == (min(size[0], 64), min(size[1], 64), 3)
    assert dict(most_different(Images(image, None, None)))["result"].shape == (*size, 3)


def test_the_worst_the_middle_and_the_best_are_shown():
    rows = {f"{i:02}": Row(f"{i:02}", {"niqe": 1.0, "lpips": i / 30}, "", "") for i in range(30)}
    shown = worth_showing(rows, ["niqe", "lpips"])
    assert [name for name, _ in shown[:4]] == ["29", "28", "27", "26"]
    assert [name for name, _ in shown[-4:]] == ["03", "02", "01", "00"]
    assert len(dict(shown)) == 12
    few = worth_showing(
        {"a": Row("a", {"niqe": None}, "small", ""), "b": Row("b", {"niqe": 3.0}, "", "")}, ["niqe"]
    )
    assert [name for name, _ in few] == ["b"]
