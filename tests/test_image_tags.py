"""Tags in the files that are written, where other programs find them."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr.images.io import Picture, picture_to_pil, read_image, write_image

TAGS = ("brick wall", "ivy & <moss>", "дерево", "🌳")
NAMESPACES = {"dc": "http://purl.org/dc/elements/1.1/", "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#"}
FILES = ["a.png", "a.jpg", "a.webp", "a.tif"]


def picture(tags: tuple[str, ...], bits: int = 8) -> Picture:
    colour = np.random.default_rng(0).random((6, 5, 3), dtype=np.float32)
    exif = Image.Exif()
    exif[0x010E] = "a wall"
    return Picture(colour, bits=bits, exif=exif.tobytes(), dpi=(72, 72), tags=tags)


def keywords(path: Path) -> tuple[str, ...]:
    with Image.open(path) as image:
        packet = image.info["xmp"]
        assert image.getexif()[0x010E] == "a wall"
    bag = ElementTree.fromstring(packet).find(".//dc:subject/rdf:Bag", NAMESPACES)
    return tuple(item.text or "" for item in bag)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", FILES)
def test_tags_are_xmp_keywords_beside_exif(tmp_path, name, bits):
    write_image(picture(TAGS, bits), tmp_path / name)
    assert keywords(tmp_path / name) == TAGS


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", FILES)
def test_without_tags_a_file_is_as_before(tmp_path, name, bits):
    write_image(picture((), bits), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert "xmp" not in image.info
    write_image(picture(TAGS, bits), tmp_path / f"tagged-{name}")
    with Image.open(tmp_path / name) as plain, Image.open(tmp_path / f"tagged-{name}") as tagged:
        assert np.array_equal(np.asarray(plain), np.asarray(tagged))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_text_leaves_a_file_that_reads(tmp_path_factory, tags):
    path = tmp_path_factory.mktemp("any") / "a.png"
    write_image(picture(tuple(tag.encode("utf-8", "replace").decode() for tag in tags)), path)
    assert read_image(path).size == (5, 6)


def test_tags_too_long_for_jpeg_are_left_out_with_a_warning(tmp_path):
    many = tuple(f"tag number {i}" for i in range(5000))
    with pytest.warns(UserWarning, match="tags are too long for JPEG"):
        write_image(picture(many), tmp_path / "a.jpg")
    write_image(picture(many), tmp_path / "a.png")


def test_a_pil_image_carries_them_too():
    assert "дерево".encode() in picture_to_pil(picture(TAGS)).info["xmp"]
