"""Photos too large to be held, in the server: computed, converted and shown by rows."""

import json
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from linearsr.serving import results
from linearsr.serving.jobs import Job, JobStore
from linearsr.serving.settings import ServeSettings
from linearsr.serving.worker import Cancelled, Worker
from serve_tools import image, problem, send, serving, wait_for
from tiny_model import build


def task(folder: Path, **options: Any) -> dict[str, Any]:
    """Of an image that has a width of 40 and a height of 90 pixels."""
    (folder / "input").write_bytes(image(40, 90))
    settings = {"scale": 4.0, "num_inference_steps": 2, "fidelity": None, "tags": None, "seed": 0}
    rest = {"guidance_scale": None, "color_fix": None, **options}
    place = {"input": str(folder / "input"), "output": str(folder / "result.png")}
    return {
        "do": "upscale",
        "id": "a",
        "quality": 95,
        "max_pixels": 10**4,
        "options": settings | rest,
        **place,
    }


@pytest.mark.parametrize("fits", [True, False])
def test_photo_that_does_not_fit_is_made_in_strips(tmp_path, monkeypatch, fits):
    pipe, answers = build(), StringIO()
    asked = task(tmp_path)
    expected = pipe(BytesIO(image(40, 90)), num_inference_steps=2).images[0]
    monkeypatch.setattr(pipe, "fits", lambda *size: fits)
    monkeypatch.setattr("linearsr.streaming.memory.strip_rows_for", lambda width, device: 16)
    done = Worker(pipe, answers).do(asked)
    assert (done["event"], done["output"]["width"], done["output"]["height"]) == ("done", 160, 360)
    difference = np.asarray(Image.open(asked["output"])).astype(int) - np.asarray(expected)
    assert abs(difference).max() <= 1
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert [event["event"] for event in told] == ["step"] * len(told)
    if fits:
        assert [(event["step"], event["steps"]) for event in told] == [(1, 2), (2, 2)]
    else:
        shares = [event["share"] for event in told]
        assert shares == sorted(set(shares))
        assert (shares[0], shares[-1], told[-1]["step"]) == (0, 1, 2)
        assert len(shares) > 10
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["input", "result.png"]


def test_photo_in_strips_is_cancelled_and_its_file_not_named(tmp_path, monkeypatch):
    pipe = build()
    monkeypatch.setattr(pipe, "fits", lambda *size: False)
    worker = Worker(pipe, StringIO())
    seen = []

    def go_on():
        seen.append(1)
        if len(seen) > 3:
            raise Cancelled

    asked = task(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_go_on", go_on)
        assert worker.do(asked) == {"event": "cancelled"}
    assert [path.name for path in tmp_path.iterdir()] == ["input"]
    (tmp_path / "input").write_bytes(image(40, 90)[:3000])
    broken = worker.do(asked)
    assert str(tmp_path) not in json.dumps(broken)
    assert any("the image " in words for words in [*broken.get("warnings", []), broken.get("message", "")])


def test_time_grows_with_the_photo():
    settings = ServeSettings(Path(), max_seconds=10)
    assert [settings.seconds_for(pixels) for pixels in (100, 10**6, 50 * 10**6)] == [10, 10, 500]


@pytest.mark.parametrize(("format", "stripped"), [("jpg", False), ("tiff", True), ("webp", False)])
def test_large_result_is_converted_by_rows(tmp_path, monkeypatch, format, stripped):
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    source = tmp_path / "source.png"
    source.write_bytes(image(50, 150, exif=exif))
    made = []
    for most in (10**6, 0):
        monkeypatch.setattr(results, "_MOST_HELD", most)
        target = tmp_path / f"{most}.{format}"
        results._convert(source, target, ("ivy",), 10**6, stripped)
        made.append(Image.open(target))
    held, by_rows = made
    difference = np.asarray(held).astype(int) - np.asarray(by_rows)
    assert abs(difference).mean() < (2 if format == "jpg" else 0.01)
    assert held.getexif().get(0x010F) == by_rows.getexif().get(0x010F) == (None if stripped else "A camera")
    assert len(list(tmp_path.iterdir())) == 3


def test_large_result_is_shown_small(tmp_path, monkeypatch):
    for size, mode in (((100, 40), "RGB"), ((30, 20), "LA")):
        source, target = tmp_path / "source.png", tmp_path / "small.jpg"
        Image.new(mode, size).save(source)
        monkeypatch.setattr(results, "PREVIEW_SIDE", 50)
        results._shrink(source, target)
        assert Image.open(target).size == ((50, 20) if mode == "RGB" else size)


def test_preview_is_a_jpeg_and_goes_with_its_job(served_model, tmp_path, monkeypatch):
    with serving(served_model, tmp_path) as client:
        job = wait_for(client, send(client, wait="false").json(), "done")
        answer = client.get(f"/v1/jobs/{job['id']}/preview")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert Image.open(BytesIO(answer.content)).size == (48, 40)
        whole = Image.open(BytesIO(client.get(f"/v1/jobs/{job['id']}/result").content))
        part = Image.open(BytesIO(client.get(f"/v1/jobs/{job['id']}/preview?region=8,16,40,24").content))
        cut = whole.crop((8, 16, 48, 40))
        assert abs(np.asarray(part.convert("L")).astype(int) - np.asarray(cut.convert("L"))).mean() < 4
        for wrong in ("8,16,41,24", "8,16,0,24", "8,16,40", "-1,0,9,9"):
            told = problem(client.get(f"/v1/jobs/{job['id']}/preview?region={wrong}"), 422, "bad_option")
            assert told.startswith("region: ")
        assert told == "region: LEFT,TOP,WIDTH,HEIGHT in pixels"
        run_sync = results.to_process.run_sync

        async def after_its_end(function, source, *values, **options):
            source.unlink()
            return await run_sync(function, source, *values, **options)

        with monkeypatch.context() as patch:
            patch.setattr(results.to_process, "run_sync", after_its_end)
            problem(client.get(f"/v1/jobs/{job['id']}/preview?region=8,16,40,24"), 404, "not_found")
        client.delete(f"/v1/jobs/{job['id']}")
        assert client.get(f"/v1/jobs/{job['id']}/preview").status_code == 404
        assert list((tmp_path / "results").iterdir()) == []


def test_what_a_killed_server_was_working_with_is_removed(tmp_path):
    store = JobStore(tmp_path)
    job = Job("upscale", "", 1, 1, 1, {"format": "png"})
    store.save(job)
    for remove in (store.clean, lambda: store.remove_work(job)):
        work = store.result_path(job).with_name(f".{job.id}.png.linearsr-work")
        work.mkdir()
        (work / "input.rows").touch()
        remove()
        assert not work.exists()
    store.close()
