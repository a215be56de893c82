"""What a file says in words goes along, byte by byte, and stays true; or is left out where that is asked."""

import io
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from image_tools import RGB8, SRGB, encoded, png, png_chunk
from linearsr.images.metadata import parse_exif
from linearsr.images.picture import Picture
from linearsr.images.reading import read_image
from linearsr.images.rows.reader import RowReader
from linearsr.images.rows.writer import RowWriter
from linearsr.images.texts import as_jpeg_segment
from linearsr.images.writing import picture_to_pil, write_image

WORDS = {0x010E: "Zdjęcie — plaża", 0x013B: "José Müller", 0x8298: "© 日本"}
IPTC = b"\x1c\x02\x19\x00\x03one\x1c\x02\x69\x00\x04Head"
TIFF, EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
XMP = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:t="{TIFF}" xmlns:exif="{EXIF}" xmlns:drone="http://a.b/"
 t:Orientation="6" exif:PixelXDimension='12' exif:GPSLatitude="52,12N" drone:GpsLongitude="5">
<t:ImageWidth>12</t:ImageWidth><t:ImageLength>9</t:ImageLength><exif:GPSAltitude>3</exif:GPSAltitude>
<dc:subject xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Bag><rdf:li>plaża</rdf:li></rdf:Bag></dc:subject>
</rdf:Description></rdf:RDF></x:xmpmeta>""".encode()
FILES = ["a.png", "a.jpg", "a.tif", "a.webp", "a.avif"]


def camera_jpeg():
    """Orientation 6, UTF-8 text, GPS, XMP and IPTC."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for tag, text in WORDS.items():
        exif[tag] = text.encode()
    exif[0x8825] = {1: "N", 2: (52.0, 12.0, 0.0)}
    exif[0x8769] = {0x9003: "2024:01:02 03:04:05", 0xA433: "M--ller"}
    block = exif.tobytes().replace(b"M--ller", "Müller".encode())
    return encoded(RGB8, "JPEG", exif=block, xmp=XMP, extra=as_jpeg_segment(IPTC))


def by_rows(data, path, folder, keep="all"):
    source = folder / "source.jpg"
    source.write_bytes(data)
    reader = RowReader(source, folder, keep=keep)
    writer = RowWriter(path, (reader.height, reader.width), reader, folder)
    writer.write(reader.read(0, reader.height))
    writer.close(["ivy"])


@pytest.mark.parametrize("in_rows", [False, True])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore:.* cannot hold IPTC")
def test_exif_xmp_and_iptc_go_along_and_are_true(tmp_path, name, in_rows):
    if in_rows:
        by_rows(camera_jpeg(), tmp_path / name, tmp_path)
    else:
        write_image(replace(read_image(camera_jpeg()), tags=("ivy",)), tmp_path / name)
    block = (tmp_path / name).read_bytes()
    for text in WORDS.values():
        assert text.encode() + b"\0" in block
    again = read_image(tmp_path / name)
    exif = parse_exif(again.exif)
    assert exif.get_ifd(0x8769)[0xA433].encode("latin-1").decode() == "Müller"
    assert exif.get_ifd(0x8825)[2] == (52.0, 12.0, 0.0)
    assert again.iptc == (None if name in ("a.webp", "a.avif") else IPTC)
    tree = ElementTree.fromstring(again.xmp)
    described = tree[0][0]
    assert described.get(f"{{{TIFF}}}Orientation") == "1"
    assert described.get(f"{{{EXIF}}}PixelXDimension") == "9"
    assert [described.findtext(f"{{{TIFF}}}{side}") for side in ("ImageWidth", "ImageLength")] == ["9", "12"]
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    assert [item.text for item in tree.iter(f"{rdf}li")] == ["plaża", "ivy"]


@pytest.mark.parametrize("in_rows", [False, True])
def test_places_are_left_out_on_request(tmp_path, in_rows):
    if in_rows:
        by_rows(camera_jpeg(), tmp_path / "a.png", tmp_path, "no places")
    else:
        write_image(read_image(camera_jpeg(), keep="no places"), tmp_path / "a.png")
    again = read_image(tmp_path / "a.png")
    assert b"gps" not in again.xmp.lower()
    assert 0x8825 not in parse_exif(again.exif)
    assert parse_exif(again.exif)[0x013B].encode("latin-1").decode() == "José Müller"
    assert again.iptc == IPTC


def test_all_is_left_out_on_request_but_the_colours(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = read_image(encoded(RGB8, icc_profile=profile, exif=Image.Exif().tobytes()), keep="nothing")
    assert picture.icc_profile == profile
    picture = read_image(camera_jpeg(), keep="nothing")
    assert (picture.exif, picture.xmp, picture.iptc) == (None, None, None)
    assert picture.size == (9, 12)  # still upright


def png_of(*chunks, colour_type=2):
    raw = b"".join(b"\0" + row.tobytes() for row in (RGB8 if colour_type == 2 else RGB8[..., 0]))
    return png(12, 9, 8, colour_type, raw, b"".join(png_chunk(*chunk) for chunk in chunks))


def test_png_text_goes_along_in_png_and_is_told_elsewhere(tmp_path):
    chunks = (
        (b"tEXt", b"parameters\0a cat, Steps: 20"),
        (b"zTXt", b"workflow\0\0" + zlib.compress(b"{}")),
        (b"iTXt", b"Title\0\0\0de\0Titel\0" + "plaża".encode()),
    )
    picture = read_image(png_of(*chunks))
    write_image(picture, tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").png_texts == chunks
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == {"parameters": "a cat, Steps: 20", "workflow": "{}", "Title": "plaża"}
    with pytest.warns(UserWarning, match="text such as Title, parameters, workflow, so it is left out"):
        write_image(picture, tmp_path / "a.jpg")
    assert read_image(png_of(*chunks), keep="nothing").png_texts == ()


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
def test_raw_profiles_in_png_are_exif_and_iptc(kind):
    exif = Image.Exif()
    exif[0x010F] = "A camera"

    def raw(name, block):
        text = f"\n{name}\n{len(block):8}\n{block.hex()}\n".encode()
        packed = b"\0" + zlib.compress(text) if kind == b"zTXt" else text
        return kind, b"Raw profile type " + name.encode() + b"\0" + packed

    picture = read_image(png_of(raw("exif", exif.tobytes()), raw("iptc", IPTC)))
    assert parse_exif(picture.exif)[0x010F] == "A camera"
    assert picture.iptc == IPTC


P3 = (b"cICP", bytes([12, 13, 0, 1]))
# linear RGB of Display P3 to XYZ under D50, as Apple's and the ICC's profiles have it
P3_TO_XYZ = [[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]]


def test_colours_by_cicp_stay_in_png_and_are_a_profile_elsewhere(tmp_path):
    picture = read_image(png_of(P3))
    write_image(picture, tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").colour_chunks == (P3,)
    for name in FILES[1:]:
        write_image(picture, tmp_path / name)
        profile = ImageCms.ImageCmsProfile(io.BytesIO(read_image(tmp_path / name).icc_profile)).profile
        columns = [profile.red_primary[0], profile.green_primary[0], profile.blue_primary[0]]
        np.testing.assert_allclose(np.transpose(columns), P3_TO_XYZ, atol=2e-4)


def test_gamma_and_chromaticities_are_a_profile_elsewhere(tmp_path):
    gamma = b"gAMA", (100000).to_bytes(4, "big")
    srgb = b"cHRM", np.array([31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000], ">u4").tobytes()
    picture = read_image(png_of(gamma, srgb))
    write_image(picture, tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").colour_chunks == (gamma, srgb)
    write_image(picture, tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as image:
        seen = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"])),
            ImageCms.createProfile("sRGB"),
        )
    linear = RGB8 / 255
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(np.asarray(seen), expected * 255, atol=2)


def test_grey_gets_a_profile_for_grey(tmp_path):
    write_image(read_image(png_of((b"gAMA", (100000).to_bytes(4, "big")), colour_type=0)), tmp_path / "a.tif")
    profile = read_image(tmp_path / "a.tif").icc_profile
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip() == "GRAY"


@pytest.mark.parametrize(
    "chunk", [(b"sRGB", b"\0"), (b"gAMA", (45455).to_bytes(4, "big")), (b"cICP", b"\1\r\0\1")]
)
def test_srgb_by_any_name_needs_no_profile(tmp_path, chunk):
    write_image(read_image(png_of(chunk)), tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").icc_profile is None


def test_hdr_of_an_icc_profile_is_told():
    profile = SRGB + b"cicp\0\0\0\0" + bytes([9, 18, 0, 1])
    with pytest.warns(UserWarning, match=r"HDR colours \(HLG\), which are processed like SDR$"):
        assert read_image(encoded(RGB8, icc_profile=profile)).icc_profile == profile


@pytest.mark.parametrize(("code", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_told_and_kept_in_png(tmp_path, code, name):
    chunk = b"cICP", bytes([9, code, 0, 1])
    with pytest.warns(UserWarning, match=f"HDR colours \\({name}\\)"):
        picture = read_image(png_of(chunk))
    write_image(picture, tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_image(tmp_path / "a.png").colour_chunks == (chunk,)


# ---------------------------------------------------------------- tags, where other programs find them

TAGS = ("brick wall", "ivy & <moss>", "дерево", "🌳")
NAMESPACES = {"dc": "http://purl.org/dc/elements/1.1/", "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#"}


def tagged(tags: tuple[str, ...], bits: int = 8) -> Picture:
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
    write_image(tagged(TAGS, bits), tmp_path / name)
    assert keywords(tmp_path / name) == TAGS
    write_image(tagged((), bits), tmp_path / f"plain-{name}")
    with Image.open(tmp_path / f"plain-{name}") as plain, Image.open(tmp_path / name) as with_tags:
        assert "xmp" not in plain.info
        assert np.array_equal(np.asarray(plain), np.asarray(with_tags))


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_any_text_leaves_a_file_that_reads(tmp_path_factory, tags):
    path = tmp_path_factory.mktemp("any") / "a.png"
    write_image(tagged(tuple(tag.encode("utf-8", "replace").decode() for tag in tags)), path)
    assert read_image(path).size == (5, 6)


def test_tags_too_long_for_jpeg_are_left_out_with_a_warning(tmp_path):
    many = tuple(f"tag number {i}" for i in range(5000))
    with pytest.warns(UserWarning, match="tags are too long for JPEG"):
        write_image(tagged(many), tmp_path / "a.jpg")
    write_image(tagged(many), tmp_path / "a.png")


def test_a_pil_image_carries_them_too():
    assert "дерево".encode() in picture_to_pil(tagged(TAGS)).info["xmp"]
