"""`linearsr upscale --device cpu,cpu`: several processes make the files that one makes."""

import json
from functools import partial

import pytest
import torch

from commands import linearsr, refused
from image_tools import noise


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, height, width in (("a", 12, 10), ("b", 9, 14), ("c", 20, 11), ("d", 8, 8)):
        noise(folder / f"{name}.png", width, height)
    return folder


upscale = partial(linearsr, "upscale")


def test_two_processes_make_the_files_that_one_makes(photos, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (photos / "bb.png").write_bytes((photos / "b.png").read_bytes()[:60])
    options = (photos, "--model", tiny_model, "--seed", 4, "--json")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = upscale(*options, "-o", tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "d.png").write_bytes(b"there already")
    two = upscale(*options, "-o", tmp_path / "two", "--device", "cpu,cpu")
    assert two.exit_code == one.exit_code == 1, two.stderr
    assert "bb.png: is broken or truncated" in two.stderr
    records = [[json.loads(line) for line in run.stdout.splitlines()] for run in (one, two)]
    assert [record["status"] for record in records[1]] == ["done", "done", "failed", "done", "skipped"]
    kept = ("input", "size", "seed", "model", "tags", "unknown_tags", "error")
    assert [[r[key] for key in kept] for r in records[1][:4]] == [
        [r[key] for key in kept] for r in records[0][:4]
    ]
    for name in ("a.png", "b.png", "c.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_model_that_cannot_be_loaded_is_said_once(photos, tmp_path):
    words = ("--model", tmp_path / "none", "-o", tmp_path / "out", "--device", "cpu,cpu")
    assert "none" in refused(upscale(photos, *words))
