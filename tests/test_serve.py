"""`linearsr serve` as its clients see it: images, jobs, events, tags, limits and refusals."""

from io import BytesIO
from typing import get_args

import pytest
from PIL import Image

from linearsr.images.reading import read_image
from linearsr.images.writing import write_image
from linearsr.pipeline import LinearSRPipeline
from linearsr.serving import schemas
from linearsr.settings import ColourFix
from serve_tools import ENDLESS, events, image, problem, send, serving, wait_for


@pytest.fixture(scope="module")
def client(served_model, tmp_path_factory):
    with serving(served_model, tmp_path_factory.mktemp("data"), max_queue=3, max_pixels=10_000) as client:
        yield client


def test_image_back_is_that_of_the_pipeline(client, served_model, tmp_path):
    answer = send(client, seed="3", fidelity="0.5", scale="2.5", wait="true")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    pipe = LinearSRPipeline.from_pretrained(served_model, device="cpu")
    picture = pipe.upscale(read_image(image()), seed=3, fidelity=0.5, scale=2.5)
    write_image(picture, tmp_path / "expected.png")
    assert answer.content == (tmp_path / "expected.png").read_bytes()
    again = client.get(f"/v1/jobs/{answer.headers['x-job-id']}/result")
    # what is removed here must not live on in a browser
    assert again.headers["cache-control"] == "private, no-store"
    assert again.content == answer.content


def test_job_from_queue_to_removal(client):
    accepted = send(client, wait="false", steps=3)
    assert accepted.status_code == 202
    job = accepted.json()
    assert accepted.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["progress"], job["steps"]) == ("queued", 0, 3)
    told = client.get(f"/v1/jobs/{job['id']}/events")
    assert told.headers["content-type"].startswith("text/event-stream")
    names, states = zip(*events(told.text), strict=True)
    assert set(names[:-1]) <= {"progress"}
    assert names[-1] == "done"
    progress = [state["progress"] for state in states]
    assert progress == sorted(progress)
    last = states[-1]
    assert last == client.get(f"/v1/jobs/{job['id']}").json()
    assert last["input"] == {"width": 12, "height": 10}
    result = client.get(f"/v1/jobs/{job['id']}/result")
    size = {"width": 48, "height": 40, "format": "png", "bytes": len(result.content)}
    assert (last["output"], last["progress"], last["step"], last["error"]) == (size, 1, 3, None)
    assert last["created"] <= last["started"] <= last["finished"] < last["expires"]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    for address in ("", "/events", "/result"):
        problem(client.get(f"/v1/jobs/{job['id']}{address}"), 404, "not_found")
    problem(client.delete(f"/v1/jobs/{job['id']}"), 404, "not_found")


@pytest.mark.parametrize(
    ("sent", "asked", "format"),
    [
        ("PNG", "jpg", "JPEG"),
        ("PNG", "webp", "WEBP"),
        ("JPEG", "same", "JPEG"),
        ("TIFF", "same", "TIFF"),
        ("WEBP", "same", "WEBP"),
        ("GIF", "same", "PNG"),
        ("AVIF", "same", "PNG"),
    ],
)
def test_formats(client, sent, asked, format):
    answer = send(client, image(format=sent), format=asked, wait="true")
    assert answer.status_code == 200, answer.text
    with Image.open(BytesIO(answer.content)) as result:
        assert (result.format, result.size) == (format, (48, 40))
        assert answer.headers["content-type"] == Image.MIME[format]


def test_metadata_and_warnings_come_along(client):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"
    )
    job = wait_for(client, send(client, file.getvalue(), wait="false").json(), "done")
    assert job["warnings"] == ["the image has several frames or pages; only the first is used"]
    answer = send(client, image(dpi=(300, 300)), wait="true")
    with Image.open(BytesIO(answer.content)) as result:
        assert round(result.info["dpi"][0]) == 300


def test_tags_that_the_model_does_not_listen_to(client):
    plain, told = (
        wait_for(client, send(client, wait="false", **fields).json(), "done")
        for fields in ({}, {"tags": "ivy"})
    )
    assert plain["warnings"] == []
    assert told["warnings"] == ["the model tiny does not listen to tags: results are as without them"]
    assert (told["tags"], told["unknown_tags"]) == ([], [])
    first, second = (client.get(f"/v1/jobs/{job['id']}/result").content for job in (plain, told))
    assert first == second


def test_a_result_without_metadata(client):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    answer = send(client, image(exif=exif), wait="true")
    address = f"/v1/jobs/{answer.headers['X-Job-ID']}/result"
    for query, kept in (
        ("", True),
        ("?stripped=true", False),
        ("?stripped=true&format=jpg", False),
        ("?format=jpg", True),
    ):
        with Image.open(BytesIO(client.get(address + query).content)) as result:
            assert (0x010F in result.getexif()) == kept, query


def test_tags(client):
    answer = client.post("/v1/tags", files={"image": image()}, data={"max_tags": 1})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["width"], found["height"], len(found["tags"])) == (12, 10, 1)
    assert 0 < found["tags"][0]["score"] < 1
    none = client.post("/v1/tags", files={"image": image()}, data={"threshold": 1, "max_tags": ""})
    assert none.json()["tags"] == []
    problem(client.post("/v1/tags", files={"image": b"no image"}), 422, "bad_image")


def test_models_and_state(client):
    report = client.get("/v1/models").json()
    (model,) = report["models"]
    assert (model["id"], model["scale"], model["tagger"], model["guided_by_tags"]) == ("tiny", 4, True, False)
    assert report["limits"]["max_pixels"] == 10_000
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    text = client.get("/metrics").text
    assert 'linearsr_requests_total{method="GET",route="/healthz",status="200"} ' in text
    assert "linearsr_worker_restarts 0.0" in text


def test_description(client):
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/upscale", "/v1/tags", "/v1/jobs",
        "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/events", "/v1/jobs/{job_id}/result", "/v1/jobs/{job_id}/preview",
    }  # fmt: skip
    form = description["components"]["schemas"]["UpscaleForm"]["properties"]
    assert form["seed"]["maximum"] == 2**32 - 1
    assert get_args(schemas.ColourFix) == get_args(ColourFix)


def test_page_and_its_policy(client):
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    problem(client.get("/missing.js"), 404, "not_found")
    problem(client.get("/..%2f..%2fapi.py"), 404, "not_found")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"scale": "9"}, "scale"),
        ({"scale": "nan"}, "scale"),
        ({"scale": "x4"}, "scale"),
        ({"steps": "0"}, "steps"),
        ({"steps": "3000000"}, "steps"),
        ({"fidelity": "1.01"}, "fidelity"),
        ({"seed": "-1"}, "seed"),
        ({"tags": "a" * 1001}, "tags"),
        ({"guidance_scale": "2"}, "no guidance"),
        ({"color_fix": "magic"}, "color_fix"),
        ({"format": "gif"}, "format"),
        ({"quality": "101"}, "quality"),
        ({"wait": "maybe"}, "wait"),
        ({"url": "http://localhost/secret.png"}, "url"),
    ],
)
def test_options_that_are_refused(client, fields, word):
    assert word in problem(send(client, **fields), 422, "bad_option")


def bomb() -> bytes:
    """A PNG whose header promises 50000x50000 pixels."""
    data = image()
    return data[:16] + (50_000).to_bytes(4, "big") * 2 + data[24:]


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\0" * 100, bomb(), image(101, 100)],
)
def test_images_that_are_refused(client, data):
    assert problem(send(client, data), 422, "bad_image").startswith(
        ("the image is ", "the file is not an image")
    )


def test_image_that_is_broken_behind_its_header(client):
    data = image(64, 64)
    data = data[:500] + bytes([data[500] ^ 255]) + data[501:]
    assert "broken" in problem(send(client, data, wait="true"), 422, "failed")
    job = wait_for(client, send(client, data, wait="false").json(), "failed")
    assert job["error"].startswith("the image is broken")
    problem(client.get(f"/v1/jobs/{job['id']}/result"), 422, "failed")


def test_requests_that_are_no_forms(client):
    assert "image" in problem(client.post("/v1/upscale"), 422, "bad_option")
    assert "image" in problem(
        client.post("/v1/upscale", json={"image": "http://localhost"}), 422, "bad_option"
    )
    assert "image" in problem(client.post("/v1/upscale", data={"image": "photo.png"}), 422, "bad_option")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    problem(client.post("/v1/upscale", content=b"--y\r\nrubbish", headers=broken), 400, "bad_request")
    twice = [("image", ("photo.png", image()))] * 2
    for address in ("/v1/upscale", "/v1/tags"):
        assert problem(client.post(address, files=twice), 422, "bad_option").startswith("image: give it once")
    problem(client.get("/v1/upscale"), 405, "method_not_allowed")
    problem(client.get("/v1/jobs/..%2F..%2Fetc%2Fpasswd"), 404, "not_found")
    problem(client.get("/v1/jobs/%00"), 404, "not_found")


def test_names_of_files_lead_nowhere(client, tmp_path):
    for name in ("../../evil.png", "/etc/evil.png", "a\0b.png", "C:\\evil.png", "💥.png"):
        assert send(client, name=name, wait="true").status_code == 200


def test_full_queue_and_cancelling(client):
    running = send(client, **ENDLESS).json()
    wait_for(client, running, "running")
    waiting = [send(client, **ENDLESS).json() for _ in range(3)]
    assert [client.get(f"/v1/jobs/{job['id']}").json()["position"] for job in waiting] == [0, 1, 2]
    refused = send(client)
    assert "3 jobs are waiting" in problem(refused, 429, "busy")
    assert int(refused.headers["retry-after"]) >= 1
    unfinished = client.get(f"/v1/jobs/{running['id']}/result")
    problem(unfinished, 409, "not_ready")
    assert client.get("/healthz").status_code == 200
    for job in [*waiting, running]:
        assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
        problem(client.get(f"/v1/jobs/{job['id']}/result"), 410, "cancelled")
    # the same worker goes on: it was stopped between two steps
    assert send(client, wait="true").status_code == 200
    assert "linearsr_worker_restarts 0.0" in client.get("/metrics").text
