"""`linearsr serve --max-batch`: images that are alike go through the model together, and none hurts another."""

import asyncio
import os
import signal
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from linearsr.guidance.tags import TagGuidance, TagGuidanceConfig
from linearsr.images.reading import read_image
from linearsr.pipeline import LinearSRPipeline
from linearsr.serving.dispatcher import Dispatcher
from serve_tools import ENDLESS, image, send, serving, wait_for
from tiny_model import build

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def pipe(served_model):
    return LinearSRPipeline.from_pretrained(served_model, device="cpu")


@pytest.fixture
def client(served_model, tmp_path):
    with serving(served_model, tmp_path, max_batch=4) as client:
        yield client


def options(pipe, steps=3):
    return pipe.options(scale=2.5, num_inference_steps=steps, fidelity=0.3, color_fix="wavelet")


def test_together_as_alone(pipe):
    pictures = [read_image(image(14, 9, seed=seed)) for seed in range(3)]
    alone = [
        pipe.upscale(picture, seed=seed, scale=2.5, num_inference_steps=3, fidelity=0.3, color_fix="wavelet")
        for seed, picture in enumerate(pictures)
    ]
    together = pipe.upscale_together(pictures, [0, 1, 2], options(pipe))
    for one, other in zip(alone, together, strict=True):
        assert one.size == other.size == (35, 22)
        np.testing.assert_allclose(one.colour, other.colour, atol=LEVEL / 10)


def test_what_cannot_go_together(pipe):
    small, large = read_image(image()), read_image(image(20, 20))
    with pytest.raises(ValueError, match="several sizes"):
        pipe.upscale_together([small, large], [0, 0], options(pipe))
    guided = build()
    guided.guidance = TagGuidance(TagGuidanceConfig(("ivy",), channels=16)).eval()
    with pytest.raises(ValueError, match="guided"):
        guided.upscale_together([small, small], [0, 0], replace(options(guided), guidance_scale=1.0))


def test_a_queue_in_one_go(client, pipe):
    blocking = send(client, image(30, 30), **ENDLESS).json()
    wait_for(client, blocking, "running")
    asked = {"wait": "false", "tags": "ivy"}
    alike = [send(client, image(seed=seed), seed=str(seed), **asked).json() for seed in range(3)]
    other = send(client, image(), wait="false", fidelity="0.1").json()
    data = image()
    data = data[:200] + bytes([data[200] ^ 255]) + data[201:]
    broken = send(client, data, wait="false").json()
    client.delete(f"/v1/jobs/{blocking['id']}")
    done = [wait_for(client, job, "done") for job in alike]
    assert "broken" in wait_for(client, broken, "failed")["error"]
    # all began before any ended, and what came between them waited
    assert max(job["started"] for job in done) < min(job["finished"] for job in done)
    assert wait_for(client, other, "done")["started"] > max(job["started"] for job in done)
    for seed, job in enumerate(done):
        assert (job["step"], job["steps"], job["progress"]) == (job["steps"], job["steps"], 1)
        assert "does not listen to tags" in " ".join(job["warnings"])
        with Image.open(BytesIO(client.get(f"/v1/jobs/{job['id']}/result").content)) as result:
            expected = pipe.upscale(read_image(image(seed=seed)), seed=seed).quantised()
            assert np.abs(np.asarray(result, int) - expected).max() <= 1
    assert "linearsr_worker_restarts 0.0" in client.get("/metrics").text


def test_a_batch_that_is_broken_up(client, monkeypatch):
    monkeypatch.setattr("linearsr.serving.dispatcher._CANCEL_GRACE", 0.1)
    dispatcher = client.app.state.dispatcher
    first, *others = running_together(client, 3)
    client.delete(f"/v1/jobs/{first['id']}")
    step = wait_for(client, others[0], "running")["step"]
    while wait_for(client, others[0], "running")["step"] < step + 10:
        pass
    os.kill(dispatcher.workers[0]._process.pid, signal.SIGKILL)
    gone_on_alone(client, others)
    # too long for two may be short enough for one
    carry_out = Dispatcher._carry_out

    async def too_long_for_two(self, jobs, worker):
        if len(jobs) > 1:
            raise asyncio.TimeoutError
        await carry_out(self, jobs, worker)

    monkeypatch.setattr(Dispatcher, "_carry_out", too_long_for_two)
    gone_on_alone(client, sent_together(client, 2))
    assert dispatcher.restarts >= 2
    assert send(client, wait="true").status_code == 200


def sent_together(client, count):
    blocking = send(client, image(30, 30), **ENDLESS).json()
    wait_for(client, blocking, "running")
    jobs = [send(client, seed=str(seed), **ENDLESS).json() for seed in range(count)]
    client.delete(f"/v1/jobs/{blocking['id']}")
    return jobs


def running_together(client, count):
    jobs = sent_together(client, count)
    for job in jobs:
        wait_for(client, job, "running")
    return jobs


def gone_on_alone(client, jobs):
    """The first is done again, while the other waits for its turn; then both are cancelled."""
    first, second = (job["id"] for job in jobs)
    while client.get(f"/v1/jobs/{second}").json()["position"] != 0:
        assert client.get(f"/v1/jobs/{second}").json()["status"] in ("queued", "running")
    assert wait_for(client, jobs[0], "running")
    for job in (second, first):
        client.delete(f"/v1/jobs/{job}")
