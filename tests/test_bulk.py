"""Bulk jobs without Ray: what is found, where results go, what a worker does, and the report."""

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="needs linearsr[batch]")
pytest.importorskip("fsspec", reason="needs linearsr[batch]")
import fsspec
import pyarrow.parquet as pq

from bulk_tools import (
    Enlarger,
    batch_of,
    do,
    enlarged,
    expected,
    fill,
    members_of,
    planned,
    png,
    tar_of,
    worker_of,
)
from commands import document, linearsr, refused
from linearsr.bulk.plan import Item, _named
from linearsr.bulk.report import Report, result
from linearsr.bulk.store import BulkError, Store, locate
from linearsr.bulk.worker import Attempts
from linearsr.cluster import LinearSRUpscaler
from linearsr.images.reading import read_image


@pytest.fixture
def calls(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    return folder


@pytest.fixture
def bucket():
    """An URL of a store that is not a folder of this machine."""
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def outputs(plan):
    return {item.name: item.output for item in plan.todo}


def test_names_of_results(tmp_path):
    files = dict.fromkeys(["b.jpg", "sub/a.jpg", "sub/a.webp", ".hidden/c.png", ".d.png", "notes.txt"], b"")
    plan = planned(fill(tmp_path / "in", files), tmp_path / "out", ".webp")
    assert outputs(plan) == {
        "b.jpg": "b.webp",
        "sub/a.jpg": "sub/a_jpg.webp",
        "sub/a.webp": "sub/a_webp.webp",
    }


NAMES = st.from_regex(r"([ab]/)?[ab](_(jpg|png))?\.(jpg|png)", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(NAMES, unique=True))
def test_no_two_inputs_share_a_result(names):
    problems = {}
    items = list(_named([Item(name, name, name) for name in names], ".png", problems))
    assert len({item.output for item in items}) == len(items)
    assert {item.name for item in items} | set(problems) == set(names)


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "./x.jpg"])
def test_no_member_leaves_the_target(tmp_path, name):
    plan = planned(fill(tmp_path / "in", {"set.tar": tar_of({name: png(0)})}), tmp_path / "out")
    (item,) = plan.todo
    assert item.output.startswith("set/")
    assert ".." not in item.output


def test_results_inside_the_source_are_no_inputs(tmp_path):
    source = fill(tmp_path / "in", {"a.png": png(0), "out/b.png": png(1)})
    assert outputs(planned(source, f"{source}/out")) == {"a.png": "a.png"}
    with pytest.raises(BulkError, match="folder of the inputs"):
        planned(source, source)


def test_patterns_and_single_files(tmp_path, monkeypatch):
    fill(
        tmp_path,
        {"set-0.tar": tar_of({"a.png": png(0)}), "set-1.tar": tar_of({"a.png": png(1)}), "b.png": png(2)},
    )
    monkeypatch.chdir(tmp_path)
    assert locate("set-*.tar")[1] == ["set-0.tar", "set-1.tar"]
    assert outputs(planned("set-1.tar", "out")) == {"set-1.tar/a.png": "set-1/a.png"}
    assert outputs(planned("b.png", "out")) == {"b.png": "b.png"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "no such folder"),
        ("x*.tar", "no file matches"),
        ("empty", "no images"),
        ("foo://x", "not known"),
    ],
)
def test_wrong_sources(tmp_path, monkeypatch, source, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert message in refused(linearsr("batch", source, "-o", "out"))


def test_a_store_by_url(bucket, calls):
    store = Store(f"{bucket}/in")
    store.write("a.png", png(0))
    store.write("set.tar", tar_of({"0/1.jpg": png(1), "0/1.txt": b"text"}))
    plan = planned(f"{bucket}/in", f"{bucket}/in/out", ".png")
    assert {row["status"] for row in do(plan, calls).values()} == {"done"}
    assert plan.places.target.names() == ["a.png", "set/0/1.png"]
    for name, data in [("a.png", png(0)), ("set/0/1.png", png(1))]:
        np.testing.assert_array_equal(read_image(plan.places.target.read(name)).quantised(), expected(data))
    again = planned(f"{bucket}/in", f"{bucket}/in/out", ".png")
    assert (len(again.todo), len(again.done)) == (0, 2)
    assert len(planned(f"{bucket}/in", f"{bucket}/in/out", overwrite=True).todo) == 2


def test_failures_are_rows(tmp_path, calls):
    files = {"good.png": png(0), "broken.png": png(1)[:60], "empty.jpg": b"", "bad.tar": b"no tar" * 200}
    files["cut.tar"] = tar_of({"a.png": png(2), "b.png": png(3)})[:1600]
    plan = planned(fill(tmp_path / "in", files), tmp_path / "out")
    rows = do(plan, calls)
    assert rows["good.png"]["status"] == "done"
    assert (rows["good.png"]["width"], rows["good.png"]["height"]) == (24, 20)
    failed = {"broken.png", "empty.jpg", "cut.tar/b.png"}
    assert {name for name, row in rows.items() if row["status"] == "failed"} == failed
    assert all(
        row["error"] and "\n" not in row["error"] for row in rows.values() if row["status"] == "failed"
    )
    assert set(plan.problems) >= {"bad.tar"}
    assert Store(tmp_path / "out").names() == ["cut/a.png", "good.png"]


def test_results_that_appear_meanwhile_are_kept(tmp_path, calls):
    plan = planned(fill(tmp_path / "in", {"a.png": png(0), "b.png": png(1)}), tmp_path / "out")
    fill(tmp_path / "out", {"a.png": b"made by another worker"})
    assert [row["status"] for row in do(plan, calls).values()] == ["done", "done"]
    assert (tmp_path / "out/a.png").read_bytes() == b"made by another worker"
    assert len(list(calls.iterdir())) == 1


def test_tar_to_tar(tmp_path, calls):
    samples = {"0.jpg": png(0), "0.txt": b"zero", "1.png": png(1)[:50], "1.txt": b"one", "2.lr.png": png(2)}
    files = {"x/set.tar": tar_of(samples), "x/cut.tar": tar_of(samples)[:1200]}
    plan = planned(fill(tmp_path / "in", files), tmp_path / "out", ".webp", shards=True)
    rows = do(plan, calls)
    assert {name: row["status"] for name, row in rows.items()} == {
        "x/set.tar/0.jpg": "done",
        "x/set.tar/1.png": "failed",
        "x/set.tar/2.lr.png": "done",
    }
    assert rows["x/set.tar/0.jpg"]["output"] == "x/set.tar/0.webp"
    assert set(plan.problems) == {"x/cut.tar"}
    made = members_of((tmp_path / "out/x/set.tar").read_bytes())
    assert list(made) == ["0.webp", "0.txt", "2.lr.webp"]
    assert made["0.txt"] == b"zero"
    assert read_image(made["2.lr.webp"]).size == (24, 20)
    assert not planned(tmp_path / "in", tmp_path / "out", ".webp", shards=True).todo


@pytest.mark.parametrize("name", ["set.tar.gz", "set.TGZ", "set.tar.xz"])
def test_a_compressed_tar_is_reported(tmp_path, name):
    """There is no random access in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    source = fill(tmp_path / "in", {"b.png": png(0), name: data.getvalue()})
    plan = planned(source, tmp_path / "out")
    assert "uncompressed" in plan.problems[name]
    assert outputs(plan) == {"b.png": "b.png"}


def test_tar_to_tar_needs_tars(tmp_path):
    source = fill(tmp_path / "in", {"a.png": png(0), "set.tar": tar_of({"a.png": png(0)})})
    with pytest.raises(BulkError, match=r"a\.png is not a tar file"):
        planned(source, tmp_path / "out", shards=True)


def write_half(store):
    with store.writing("sub/a.tar") as file:
        file.write(b"half")
        raise tarfile.TarError


def test_files_are_whole_or_not_there(tmp_path, bucket):
    for url in (str(tmp_path), bucket):
        store = Store(url)
        with pytest.raises(tarfile.TarError):
            write_half(store)
        assert store.names() == []
        with store.writing("sub/a.tar") as file:
            file.write(b"whole")
        assert store.read("sub/a.tar") == b"whole"


def test_the_report_has_one_row_for_each_input(tmp_path):
    store = Store(tmp_path)
    first = Report(store)
    for row in (result("a", "done", output="a.png", size=(8, 4)), result("b", "failed", error="broken")):
        first.add(row)
    first.write()
    second = Report(store)
    for row in (result("a", "skipped", output="a.png"), result("b", "done"), result("c", "skipped")):
        second.add(row)
    second.write()
    rows = {row["input"]: row for row in pq.read_table(tmp_path / "report.parquet").to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "b": "done", "c": "skipped"}
    assert (rows["a"]["width"], rows["a"]["height"]) == (8, 4)


def test_a_foreign_report_is_kept(tmp_path):
    fill(tmp_path, {"in/a.png": png(0), "out/report.parquet": b"mine"})
    assert "is not a LinearSR report" in refused(linearsr("batch", tmp_path / "in", "-o", tmp_path / "out"))
    assert (tmp_path / "out/report.parquet").read_bytes() == b"mine"


def test_nothing_to_do_starts_nothing(tmp_path):
    fill(tmp_path, {"in/a.jpg": png(0), "out/a.png": b"done"})
    answer = linearsr("batch", tmp_path / "in", "-o", tmp_path / "out", "--json")
    last = document(answer)
    assert answer.stderr.startswith("nothing to do: all 1 results exist (--overwrite replaces them)\n")
    assert (last["total"], last["skipped"], last["done"]) == (1, 1, 0)
    assert pq.read_table(io.BytesIO((tmp_path / "out/report.parquet").read_bytes())).num_rows == 1


def test_a_column_of_images(calls):
    """Those of one size go through together; each comes back in its place, and what is wrong is said beside it."""

    class Pipeline(Enlarger):
        together = 0

        def upscale_together(self, pictures, seeds, options):
            self.together += len(pictures)
            return [enlarged(picture) for picture in pictures]

    pipeline = Pipeline(calls)
    upscaler = LinearSRUpscaler(lambda: pipeline, column="file", output="large", format="tiff")
    files = [png(0), b"broken", png(1, 9, 9), png(2)]
    batch = upscaler({"file": np.array(files, object), "id": np.arange(4)})
    assert list(batch) == ["file", "id", "large", "error"]
    assert pipeline.together == 3
    assert [error[:15] for error in batch["error"]] == ["", "is not an image", "", ""]
    assert batch["large"][1] is None
    for place in (0, 2, 3):
        np.testing.assert_array_equal(read_image(batch["large"][place]).quantised(), expected(files[place]))
    with pytest.raises(ValueError, match=r"^gpu cannot be used"):  # no option of a command is named
        LinearSRUpscaler(device="gpu")
    array = np.full((2, 3, 3), 7, np.uint8)
    made = LinearSRUpscaler(lambda: pipeline)({"image": array[None]})["image"][0]
    np.testing.assert_array_equal(made, np.full((8, 12, 3), 7, np.uint8))


def test_a_worker_in_the_place_of_another_says_so_once(tmp_path, calls):
    attempts = Attempts()
    for _ in range(2):  # those that were there before it
        attempts.begin("")
    plan = planned(fill(tmp_path / "in", {"a.png": png(0)}), tmp_path / "out")
    worker, batch = worker_of(plan, calls, attempts, workers=2), batch_of(plan)
    assert [table["status"][0].as_py() for table in worker(batch)] == ["replaced", "done"]
    assert [table["status"][0].as_py() for table in worker(batch)] == ["done"]
