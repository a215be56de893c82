"""Reading: one line for everything that is not a good image file."""

import io
import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_tools import BAD_BYTES, PNG, RGB8, SMOOTH, SRGB, encoded, levels, png_chunk
from linearsr.images.picture import ImageError
from linearsr.images.reading import read_image


@pytest.mark.parametrize("kind", BAD_BYTES)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File|Image size:")
def test_bad_bytes_give_one_line(kind, tmp_path):
    data, words = BAD_BYTES[kind]
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path, strict=True)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert line.count("; ") >= 1, "it must say what to do"
    with pytest.raises(ImageError, match=r"^<bytes>: "):
        read_image(data, strict=True)


def with_bad_profile(data):
    return data[:33] + png_chunk(b"iCCP", b"name\0\0not packed") + data[33:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(RGB8, icc_profile=b"no profile" * 30), "ICC profile is broken"),
        (with_bad_profile(encoded(RGB8)), "ICC profile is broken"),
        (encoded(RGB8, icc_profile=SRGB[:300]), "ICC profile is broken"),
        (encoded(RGB8, "JPEG", exif=b"Exif\0\0garbage garbage"), "EXIF data is broken"),
    ],
)
def test_broken_metadata_is_dropped_and_the_picture_kept(data, words):
    with pytest.warns(UserWarning, match=words):
        picture = read_image(data)
    assert picture.colour.shape == RGB8.shape
    assert picture.icc_profile is None
    assert picture.exif is None


def test_bad_paths_give_one_line(tmp_path):
    fifo = tmp_path / "pipe.png"
    os.mkfifo(fifo)
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    cases = {
        tmp_path: "is a folder",
        tmp_path / "none.png": "does not exist",
        fifo: "device or pipe",
        loop: "cannot be read",
        tmp_path / ("x" * 300 + ".png"): "too long",
        "a\0b.png": "not a valid file name",
        "https://example.org/a.png": r"^https://example.org/a.png: is a URL: download it first",
        tmp_path / "new\nline.png": "does not exist",
    }
    for path, words in cases.items():
        with pytest.raises(ImageError, match=words) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"), [(PermissionError(13, "no"), "no permission"), (OSError(5, "I/O"), "I/O")]
)
def test_unreadable_files_give_one_line(tmp_path, monkeypatch, error, words):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)

    def refuse(self):
        raise error

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(ImageError, match=words):
        read_image(path)


def test_a_text_stream_is_refused():
    with pytest.raises(ImageError, match=r"<stream>: is opened as text; open it for reading in binary mode"):
        read_image(io.StringIO("text"))


def test_memory_running_out_is_one_line(monkeypatch):
    def fail(im):
        raise MemoryError

    monkeypatch.setattr("linearsr.images.reading.samples_of", fail)
    with pytest.raises(ImageError, match="memory"):
        read_image(PNG)


def test_the_pixel_limit_can_be_moved():
    assert read_image(PNG, max_pixels=48 * 64).size == (64, 48)
    with pytest.raises(ImageError, match="exceed the limit"):
        read_image(PNG, max_pixels=48 * 64 - 1)


FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "JPEG2000", "TGA", "PPM"]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF|Truncated File")
def test_a_cut_file_is_refused_or_whole_but_never_half(file_format):
    data = encoded(SMOOTH, file_format)
    whole = levels(read_image(data))
    cuts = sorted({*np.linspace(1, len(data) - 1, 60).astype(int).tolist(), len(data) - 1, len(data) - 2})
    refused = 0
    for cut in cuts:
        try:
            got = levels(read_image(data[:cut], strict=True))
        except ImageError:
            refused += 1
        else:
            assert np.array_equal(got, whole)
    assert refused > len(cuts) // 2


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damage_never_raises_anything_else(file_format, data):
    good = bytearray(encoded(SMOOTH[:12, :16], file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = read_image(bytes(good), max_pixels=100_000)
        except ImageError:
            pass
        else:
            assert np.isfinite(picture.colour).all()


def test_an_error_comes_whole_out_of_another_process() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is empty")))
    assert isinstance(error, ImageError)
    assert str(error) == "a.png: is empty"
