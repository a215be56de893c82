"""What those who run `linearsr serve` rely on: bounded storage, refusals that say why, logs and metrics."""

import asyncio
import errno
import json
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from linearsr.images.picture import ImageError
from linearsr.serving import results
from linearsr.serving.jobs import Job, JobStore, now
from linearsr.serving.problems import Problem
from linearsr.serving.settings import DISK_FULL
from linearsr.serving.worker import reason
from serve_tools import image, problem, refused, send, serving, started, wait_for


@pytest.fixture(scope="module")
def client(served_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = {"max_storage": 11_000, "max_pixels": 10_000}
    with serving(served_model, tmp_path_factory.mktemp("data"), **settings) as client:
        yield client


def test_results_take_no_more_than_they_may(client: Any) -> None:
    job = wait_for(client, send(client, wait="false").json(), "done")
    assert f"linearsr_results_bytes {job['output']['bytes']}.0" in client.get("/metrics").text
    answers = [send(client, wait="false") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [507, 507]
    assert "of the 0.01049 MiB allowed" in problem(answers[0], 507, "storage_full")
    assert int(answers[0].headers["retry-after"]) > 0
    problem(client.get(f"/v1/jobs/{job['id']}/result?format=tiff"), 507, "storage_full")
    full = client.get("/readyz")
    problem(full, 503, "storage_full")
    assert full.headers["retry-after"]
    client.delete(f"/v1/jobs/{job['id']}")
    assert client.get("/readyz").status_code == 200
    answer = send(client, wait="true")
    assert answer.status_code == 200
    client.delete(f"/v1/jobs/{answer.headers['x-job-id']}")
    assert "linearsr_results_bytes 0.0" in client.get("/metrics").text


def test_disk_without_room(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shutil.disk_usage(".")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: whole._replace(free=1000))
        answer = send(client)
        assert "disk is full" in problem(answer, 507, "storage_full")
        assert answer.headers["retry-after"]
        problem(client.get("/readyz"), 503, "storage_full")
        assert "linearsr_disk_free_bytes 1000.0" in client.get("/metrics").text
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507, "storage_full"),
        (OperationalError("INSERT", {}, Exception("database or disk is full")), 507, "storage_full"),
        (OperationalError("INSERT", {}, Exception("database is locked")), 503, "busy"),
    ],
)
def test_job_that_cannot_be_written(
    client: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def add(self: JobStore, job: Job, file: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "add", add)
        answer = send(client, wait="true")
    problem(answer, status, code)
    assert int(answer.headers["retry-after"]) > 0


def test_upload_that_finds_no_room(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(self: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("starlette.datastructures.UploadFile.write", write)
        problem(send(client), 507, "storage_full")


def test_result_that_finds_no_room(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise ImageError("/data/x.png", "cannot be written: the disk is full") from error

    with pytest.raises(ImageError) as caught:
        write()
    assert reason(caught.value, {"id": "x", "output": "/data/x.png"}) == DISK_FULL
    monkeypatch.setattr("linearsr.serving.dispatcher.Dispatcher._carry_out", fail)
    answer = send(client, wait="true")
    problem(answer, 507, "storage_full")
    assert answer.headers["retry-after"]


async def fail(dispatcher: Any, job: Job, worker: Any) -> None:
    await dispatcher._finish(job, "failed", DISK_FULL)


def test_table_that_is_not_ours_or_is_broken(tmp_path: Path) -> None:
    table = tmp_path / "jobs.sqlite3"
    with closing(sqlite3.connect(table)) as other:
        other.execute("CREATE TABLE notes (text)")
        other.commit()
    before = table.read_bytes()
    line = refused("--data", tmp_path, "--model", tmp_path / "nothing")
    assert str(table) in line
    assert "move it away" in line
    assert "--data" in line
    assert table.read_bytes() == before
    table.write_bytes(b"no table at all" * 100)
    with pytest.raises(ValueError, match=r"cannot be used \(file is not a database\): move it away"):
        JobStore(tmp_path)
    table.unlink()
    store = JobStore(tmp_path)
    for _ in range(300):
        store.save(Job("upscale", "", 1, 1, 1, {"format": "png"}))
    store.close()
    data = bytearray(table.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9000] = bytes(9000)
    table.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be used .*: move it away"):
        JobStore(tmp_path)


def test_clock_that_is_set_expires_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(tmp_path)
    kept = Job("upscale", "", 1, 1, 1, {"format": "png"}, status="done", expires=now() + 60)
    over = Job("upscale", "", 1, 1, 1, {"format": "png"}, status="done", expires=now() - 1)
    for job in (kept, over):
        store.save(job)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    store.remove_expired()
    assert [job.id for job in store.find()] == [kept.id]
    store.close()


def test_limits_are_named_as_the_servers(client: Any) -> None:
    head = image()
    for width, words in (
        (101, "0.0101 megapixels exceed the limit of 0.01;"),
        (10**7, "1000 megapixels exceed the limit of 0.01;"),
    ):
        size = b"IHDR" + width.to_bytes(4, "big") + (100).to_bytes(4, "big") + head[24:29]
        data = head[:12] + size + zlib.crc32(size).to_bytes(4, "big") + head[33:]
        message = problem(send(client, data), 422, "bad_image")
        assert words in message
        assert "Pillow" not in message
        assert "max_pixels" not in message


def test_wrong_method_is_told_all_right_ones(client: Any) -> None:
    for address, allowed in (("/v1/jobs/x", "DELETE, GET"), ("/v1/upscale", "POST"), ("/", "GET, HEAD")):
        answer = client.request("PATCH", address)
        assert allowed in problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_metrics_of_workers_queue_and_disk(client: Any) -> None:
    text = client.get("/metrics").text
    assert 'linearsr_worker_up{device="cpu",worker="0"} 1.0' in text
    assert 'linearsr_worker_starts{device="cpu",worker="0"} 1.0' in text
    names = (
        "jobs_waiting ",
        "jobs_waiting_seconds ",
        "uploads_bytes ",
        "ends_unwritten ",
        "disk_free_bytes ",
    )
    for name in (*names, "worker_jobs_ended{", "process_resident_memory_bytes "):
        assert f"\nlinearsr_{name}" in text


def test_same_request_is_one_job(client: Any) -> None:
    def ask(key: str, **fields: Any) -> Any:
        return client.post(
            "/v1/upscale",
            files={"image": image(4, 4)},
            data={"wait": "false", **fields},
            headers={"Idempotency-Key": key},
        )

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, ["a"] * 4))
    assert {answer.status_code for answer in answers} == {202}
    (job,) = {answer.json()["id"] for answer in answers}
    wait_for(client, {"id": job}, "done")
    assert ask("a", wait="true").headers["x-job-id"] == job
    assert "another image or other options" in problem(ask("a", seed="1"), 422, "idempotency_mismatch")
    other = ask("b", wait="true").headers["x-job-id"]
    assert other != job
    problem(ask(""), 422, "bad_option")
    for name in (job, other):
        client.delete(f"/v1/jobs/{name}")


def test_jobs_of_a_key(served_model: Path, tmp_path: Path, client: Any) -> None:
    assert "--api-keys" in problem(client.get("/v1/jobs"), 403, "forbidden")
    with serving(served_model, tmp_path, api_keys=frozenset({"ours", "theirs"})) as server:
        server.headers["X-API-Key"] = "theirs"
        send(server, wait="true")
        server.headers["X-API-Key"] = "ours"
        made = [send(server, image(4, 4, seed=seed), wait="true").headers["x-job-id"] for seed in range(3)]
        page = server.get("/v1/jobs", params={"limit": 2}).json()
        assert [job["id"] for job in page["jobs"]] == made[:0:-1]
        assert page["jobs"][0] == server.get(f"/v1/jobs/{made[2]}").json()
        last = server.get("/v1/jobs", params={"limit": 2, "before": page["next"]}).json()
        assert ([job["id"] for job in last["jobs"]], last["next"]) == (made[:1], None)
        problem(server.get("/v1/jobs", params={"before": "x"}), 404, "not_found")
        problem(server.get("/v1/jobs", params={"limit": 1000}), 422, "bad_option")


def test_files_are_private_and_requests_logged(served_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with started(served_model, data, "--access-log", "json") as (process, client):
        client.headers["X-Request-ID"] = "ours-1"
        answer = send(client, wait="true")
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "ours-1")
        bad = client.get("/v1/jobs/%0aforged?key=secret", headers={"X-Request-ID": "for ged"})
        assert len(bad.headers["x-request-id"]) == 16
        modes = {oct(path.stat().st_mode & 0o777) for path in (data, *data.rglob("*")) if path.is_dir()}
        assert modes == {"0o700"}
        files = [path for path in data.rglob("*") if path.is_file() and path.name != "lock"]
        assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
        assert {"jobs.sqlite3", f"{answer.headers['x-job-id']}.png"} <= {path.name for path in files}
        process.terminate()
        records = map(json.loads, process.stderr.read().splitlines())
        first, second = sorted(records, key=lambda record: record["status"])
    assert (first["request"], first["method"], first["path"], first["status"]) == (
        "ours-1",
        "POST",
        "/v1/upscale",
        200,
    )
    assert first["client"] == "127.0.0.1"
    assert first["seconds"] > 0
    assert (second["path"], second["status"]) == ("/v1/jobs/%0aforged", 404)
    assert second["request"] == bad.headers["x-request-id"]


def test_a_result_that_is_removed_while_it_is_sent_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.png"
    path.write_bytes(b"pixels")
    sent = list[Any]()

    async def remove_and_keep(message: Any) -> None:
        path.unlink(missing_ok=True)
        sent.append(message)

    def answer() -> None:
        response = results._file(Job("upscale", "", 8, 8, 1, {}), path, "image/png")
        scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}
        asyncio.run(response(scope, None, remove_and_keep))  # type: ignore[arg-type]

    answer()
    assert sent[1] == {"type": "http.response.body", "body": b"pixels", "more_body": False}
    with pytest.raises(Problem, match="the result has expired"):
        answer()
