"""`linearsr serve` when something goes wrong: killed workers and servers, clients that leave, endless jobs."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import httpx
import pytest

from linearsr.serving.jobs import Job, JobStore
from serve_tools import ENDLESS, events, image, problem, refused, send, serving, started, wait_for, wait_until


def worker_of(client):
    """The process number of the one worker of a server in this process."""
    return client.app.state.dispatcher.workers[0]._process.pid


def has_started(client, times):
    return client.app.state.dispatcher.restarts + 1 == times


def test_killed_server_goes_on_with_what_it_accepted(served_model, tmp_path):
    with started(served_model, tmp_path) as (process, client):
        jobs = [send(client, seed=str(seed), wait="false", steps="30").json() for seed in range(4)]
        long = send(client, image(250, 250), wait="false", steps="100").json()
        wait_for(client, jobs[0], "running", "done")
        process.kill()
    assert len(list((tmp_path / "inputs").iterdir())) >= 2
    (tmp_path / "inputs" / "half-of-an-upload").touch()
    with started(served_model, tmp_path) as (process, client):
        done = [wait_for(client, job, "done") for job in jobs]
        results = [client.get(f"/v1/jobs/{job['id']}/result") for job in done]
        assert len({result.content for result in results}) == len(jobs)
        wait_for(client, long, "running")
        assert client.delete(f"/v1/jobs/{long['id']}").status_code == 204
        assert "another server uses" in refused("--port", 0, "--data", tmp_path)
        # a client that leaves while it waits
        form = {"steps": "100", "wait": "true"}
        request = httpx.Request(
            "POST", "http://localhost/v1/upscale", files={"image": image(250, 250)}, data=form
        )
        body = request.read()
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            headers = [f"{name}: {value}" for name, value in request.headers.items()]
            connection.sendall("\r\n".join(["POST /v1/upscale HTTP/1.1", *headers, "", ""]).encode() + body)
            wait_until(lambda: "linearsr_jobs_running 1.0" in client.get("/metrics").text)
        wait_until(lambda: "linearsr_jobs_running 0.0" in client.get("/metrics").text)
        # those who wait when it ends are told
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(send, client, image(250, 250), wait="true", steps="100")
            wait_until(lambda: "linearsr_jobs_running 1.0" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert waiting.result().status_code == 202
        assert process.wait(60) == 143
        assert process.stderr.read() == ""
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == [waiting.result().json()["id"]]


def test_killed_worker_is_replaced_and_its_job_done(served_model, tmp_path, monkeypatch):
    monkeypatch.setattr("linearsr.serving.dispatcher._MAX_ATTEMPTS", 2)
    with serving(served_model, tmp_path) as client:
        job = send(client, steps="300", wait="false").json()
        wait_for(client, job, "running")
        os.kill(worker_of(client), signal.SIGKILL)
        assert client.get("/healthz").status_code == 200
        assert wait_for(client, job, "done")["error"] is None
        # a job on which every worker dies
        job = send(client, **ENDLESS).json()
        for starts in (2, 3):
            wait_until(partial(has_started, client, starts))
            wait_for(client, job, "running")
            os.kill(worker_of(client), signal.SIGKILL)
        assert "could not process this image" in wait_for(client, job, "failed")["error"]
        assert send(client, wait="true").status_code == 200
        assert "linearsr_worker_restarts 3.0" in client.get("/metrics").text


def test_limits_and_keys(served_model, tmp_path):
    settings = {"max_seconds": 2.0, "keep_seconds": 3.0, "max_bytes": 2000, "upload_seconds": 1.0}
    keys = {"api_keys": frozenset({"ours", "theirs"}), "cors_origins": ("https://friend.example",)}
    with serving(served_model, tmp_path, **settings, **keys) as client:
        assert "needs a key" in problem(client.get("/v1/models"), 401, "unauthorized")
        wrong = client.get("/v1/models", headers={"X-API-Key": "wrong"})
        assert "does not know the key" in problem(wrong, 401, "unauthorized")
        problem(client.get("/v1/models", headers={"Authorization": "Basic ours"}), 401, "unauthorized")
        assert client.get("/v1/models", headers={"X-API-Key": "theirs"}).status_code == 200
        assert client.get("/healthz").status_code == 200
        client.headers["Authorization"] = "Bearer ours"

        assert "MiB" in problem(send(client, b"x" * 3000), 413, "too_large")
        chunks = (b"x" * 500 for _ in range(9))
        kind = {"content-type": "multipart/form-data; boundary=x"}
        problem(client.post("/v1/upscale", content=chunks, headers=kind), 413, "too_large")

        strange = client.post("/v1/upscale", headers={"Origin": "https://other.example"})
        nameless = client.post("/v1/upscale", headers={"Origin": "null", "Host": ""})
        problem(nameless, 403, "forbidden")
        problem(strange, 403, "forbidden")
        friend = client.get("/v1/models", headers={"Origin": "https://friend.example"})
        assert friend.headers["access-control-allow-origin"] == "https://friend.example"
        assert "access-control-allow-origin" not in strange.headers

        job = send(client, **ENDLESS).json()
        theirs = {"Authorization": "Bearer theirs"}
        problem(client.get(f"/v1/jobs/{job['id']}", headers=theirs), 404, "not_found")
        problem(client.delete(f"/v1/jobs/{job['id']}", headers=theirs), 404, "not_found")
        told = events(client.get(f"/v1/jobs/{job['id']}/events").text)
        assert told[-1][0] == "failed"
        assert "took longer than the 2 s" in told[-1][1]["error"]

        assert send(client, wait="true").status_code in (200, 422)
        wait_until(lambda: client.get(f"/v1/jobs/{job['id']}").status_code == 404)
        wait_until(lambda: not list((tmp_path / "results").iterdir()))


def test_command_that_cannot_be_carried_out(tmp_path):
    place = ("--data", tmp_path / "data")
    (tmp_path / "empty").touch()
    assert "has no keys" in refused(*place, "--api-keys", tmp_path / "empty")
    assert "LINEARSR_API_KEYS has no keys" in refused(*place, LINEARSR_API_KEYS=" , ")
    assert "no such folder" in refused(*place, "--port", 0, "--model", tmp_path / "nothing")
    assert "choose another --host or --port" in refused(*place, "--host", "no.such.host.invalid")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "in use" in refused(*place, "--port", other.getsockname()[1])


@pytest.mark.parametrize("status", ["done", "failed", "cancelled"])
def test_input_of_a_finished_job_is_removed(status, tmp_path):
    store = JobStore(tmp_path)
    job = Job("upscale", "", 1, 1, 1, {"format": "png"})
    store.add(job, BytesIO(b"sent"))
    assert store.input_path(job).read_bytes() == b"sent"
    assert [found.id for found in store.find()] == [job.id]
    job.status = status
    store.save(job)
    assert not store.input_path(job).exists()
    found = store.get(job.id)
    assert found is not None
    assert (found.status, found.options) == (status, {"format": "png"})
    store.close()
