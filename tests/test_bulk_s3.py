"""Bulk jobs against a server that speaks the protocol of S3, named as users name it: by environment variables."""

import io

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs linearsr[batch]")
pytest.importorskip("s3fs", reason="needs s3fs")
pytest.importorskip("moto.server", reason="needs moto[server]")
import boto3
import pyarrow.parquet as pq
import s3fs
from moto.server import ThreadedMotoServer

from bulk_tools import do, expected, members_of, planned, png, tar_of
from commands import linearsr, refused
from linearsr.bulk.report import Report
from linearsr.images.reading import read_image

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """A client, whose bucket "photos" is empty but for what the S3 console makes of folders."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for folder in ("in/", "in/sub/"):
        client.put_object(Bucket="photos", Key=folder)
    yield client
    for entry in client.list_objects_v2(Bucket="photos").get("Contents", []):
        client.delete_object(Bucket="photos", Key=entry["Key"])


def put(client, files):
    for name, data in files.items():
        client.put_object(Bucket="photos", Key=f"in/{name}", Body=data)


def got(client, name):
    return client.get_object(Bucket="photos", Key=name)["Body"].read()


def test_folders_and_tars(bucket, tmp_path):
    files = {"a.png": png(0), "sub/ü b+1%.png": png(1), "set.tar": tar_of({"0.png": png(2), "0.txt": b"0"})}
    put(bucket, {**files, "broken.png": b"broken"})
    plan = planned("s3://photos/in/", "s3://photos/out")
    report = Report(plan.places.target)
    rows = do(plan, tmp_path)
    for row in rows.values():
        report.add(row)
    report.write()
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.png": "done",
        "sub/ü b+1%.png": "done",
        "set.tar/0.png": "done",
        "broken.png": "failed",
    }
    for name, data in [("a.png", png(0)), ("sub/ü b+1%.png", png(1)), ("set/0.png", png(2))]:
        np.testing.assert_array_equal(read_image(got(bucket, f"out/{name}")).quantised(), expected(data))
    assert pq.read_table(io.BytesIO(got(bucket, "out/report.parquet"))).num_rows == 4
    again = planned("s3://photos/in", "s3://photos/out/")
    assert ([item.name for item in again.todo], len(again.done)) == (["broken.png"], 3)


def test_tar_to_tar(bucket, tmp_path):
    put(bucket, {f"set-{i}.tar": tar_of({"0.png": png(i), "0.txt": b"text"}) for i in range(2)})
    plan = planned("s3://photos/in/set-*.tar", "s3://photos/out", shards=True)
    assert {row["status"] for row in do(plan, tmp_path).values()} == {"done"}
    assert list(members_of(got(bucket, "out/set-1.tar"))) == ["0.png", "0.txt"]
    assert not planned("s3://photos/in/set-*.tar", "s3://photos/out", shards=True).todo


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ("s3://nowhere/in", {}, "no such folder"),
        ("s3://photos/in", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect to the endpoint"),
        ("s3://photos/in", dict.fromkeys(KEYS, ""), "Unable to locate credentials"),
    ],
)
def test_stores_that_refuse(bucket, monkeypatch, source, changes, message):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert message in refused(linearsr("batch", source, "-o", "s3://photos/out"))
