"""Whatever is sent to the server, the answer is an image, a job or one clear line. The long runs are in benchmarks/."""

from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.serving.problems import Problem
from linearsr.serving.settings import ServeSettings
from linearsr.serving.uploads import read_header
from serve_tools import image, problem, send, serving

WORDS = st.sampled_from(["", "0", "-1", "4", "1e309", "nan", "\0", "true", "../../x", "same", "png", "none"])
NAMES = st.sampled_from(
    ["scale", "steps", "fidelity", "tags", "seed", "color_fix", "format", "quality", "other"]
)


@st.composite
def damaged_images(draw):
    """A small image of some format, cut off or with some bytes changed."""
    data = bytearray(image(format=draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"]))))
    places = st.integers(0, len(data) - 1)
    for place in draw(st.lists(places, max_size=6)):
        data[place] = draw(st.integers(0, 255))
    return bytes(data[: draw(places)] if draw(st.booleans()) else data)


@pytest.fixture(scope="module")
def client(served_model, tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    with serving(served_model, data, max_pixels=10_000, max_steps=8) as client:
        yield client
        assert "linearsr_worker_restarts 0.0" in client.get("/metrics").text
        assert not list((data / "inputs").iterdir())


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200) | damaged_images(),
    st.dictionaries(NAMES, WORDS | st.text(max_size=9), max_size=3),
)
def test_any_upload_is_answered(client, data, fields):
    answer = send(client, data, **{**fields, "wait": "true"})
    if answer.status_code == 200:
        assert answer.headers["content-type"].startswith("image/")
    else:
        problem(answer, 422, answer.json()["error"]["code"])


@settings(max_examples=30, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(["multipart/form-data", "multipart/form-data; boundary=b", "text/x", ""]),
)
def test_any_body_is_refused(client, body, kind):
    answer = client.post("/v1/upscale", content=body, headers={"content-type": kind})
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code, answer.json()["error"]["code"])


@given(st.binary(max_size=300) | damaged_images())
@settings(max_examples=200, deadline=None)
def test_any_header_is_read_or_refused(data):
    try:
        width, height, _ = read_header(BytesIO(data), ServeSettings(Path(), max_pixels=1000), scale=4)
    except Problem as refusal:
        assert (refusal.status_code, refusal.code) == (422, "bad_image")  # noqa: PT017
        assert "\n" not in refusal.detail  # noqa: PT017
    else:
        assert 0 < width * height <= 1000
