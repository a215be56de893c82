"""What `linearsr batch` says and reports when Ctrl-C ends it."""

import io
from contextlib import nullcontext

import pytest

pytest.importorskip("pyarrow", reason="needs linearsr[batch]")
pytest.importorskip("fsspec", reason="needs linearsr[batch]")
import pyarrow.parquet as pq

from bulk_tools import fill, png, tar_of
from commands import linearsr
from linearsr.bulk import run
from linearsr.bulk.report import result
from linearsr.bulk.run import Pool
from linearsr.bulk.worker import Attempts


@pytest.fixture
def interrupt_after(monkeypatch):
    """Ctrl-C comes once the rows given were reported, and `work` was called."""

    def prepare(*rows, work):
        def interrupted(*_):
            yield from rows
            work()
            raise KeyboardInterrupt

        for name, stand_in in (
            ("_ray_pool", lambda _: nullcontext(Pool(1, 1, 0))),
            ("SharedAttempts", Attempts),
        ):
            monkeypatch.setattr(run, name, stand_in)
        monkeypatch.setattr(run, "_run", interrupted)

    return prepare


def test_ctrl_c_counts_what_is_finished_and_not_yet_reported(tmp_path, interrupt_after):
    source = fill(tmp_path / "in", {f"{name}.png": png(0) for name in "abc"})
    row = result("a.png", "done", output="a.png")
    interrupt_after(row, work=lambda: fill(tmp_path / "out", {"b.png": b"finished"}))
    answer = linearsr("batch", source, "-o", tmp_path / "out")
    assert answer.exit_code == 130
    assert answer.stderr.splitlines()[-1].startswith("linearsr: interrupted; 2 done, 1 not finished in ")
    report = pq.read_table(io.BytesIO((tmp_path / "out/report.parquet").read_bytes()))
    assert report["input"].to_pylist() == ["a.png", "b.png"]


def test_ctrl_c_does_not_call_the_images_of_a_tar_file_done(tmp_path, interrupt_after):
    """Some of them may have failed: only its rows say."""
    source = fill(tmp_path / "in", {"x.tar": tar_of({"a.png": png(0), "bad.png": b""})})
    interrupt_after(work=lambda: fill(tmp_path / "out", {"x.tar": b"finished"}))
    answer = linearsr("batch", source, "-o", tmp_path / "out", "--shards")
    assert answer.exit_code == 130
    assert " done" not in answer.stderr.splitlines()[-1]
