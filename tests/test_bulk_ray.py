"""Bulk jobs on a local Ray with two workers, of which some are killed: nothing lost, nothing twice."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

# looked for, not imported: its settings are read then
if find_spec("ray") is None:
    pytest.skip("needs linearsr[batch]", allow_module_level=True)
import pyarrow.parquet as pq

import linearsr
from bulk_tools import DEADLY, Enlarger, expected, fill, planned, png
from linearsr.bulk.run import Cluster, results
from linearsr.cluster import LinearSRUpscaler
from linearsr.images.reading import read_image

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    # a busy machine takes its time to start so many processes
    pytest.mark.timeout(900),
]


def kill_one(calls, after):
    """Kill -9 the worker that began the call number `after`."""
    while len(begun := sorted(calls.iterdir(), key=lambda path: path.stat().st_mtime)) < after:
        time.sleep(0.01)
    os.kill(int(begun[-1].name.split("-")[0]), signal.SIGKILL)


def test_killed_workers(tmp_path, monkeypatch, capfd):
    # beside the package of this process, wherever that is
    paths = [str(Path(__file__).parent), str(Path(linearsr.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    calls, out = tmp_path / "calls", tmp_path / "out"
    calls.mkdir()
    files = {f"sub{i % 2}/{i:02}.png": png(i) for i in range(200)}
    deadly, broken = "sub0/50.png", "sub1/51.png"
    files |= {deadly: png(50, first=DEADLY), broken: b"broken"}
    plan = planned(fill(tmp_path / "in", files), out)
    killer = threading.Thread(target=kill_one, args=(calls, 20), daemon=True)
    killer.start()
    killed: list[int] = []
    cluster = Cluster("local", 2, 1, use_gpu=False)
    told = partial(killed.append, 1)
    rows = list(results(plan, {"model": partial(Enlarger, calls)}, cluster, told))
    killer.join()
    said = capfd.readouterr()
    assert said.out + said.err == "", "Ray's noise"

    assert Counter(row["input"] for row in rows) == Counter(list(files))
    failed = {row["input"]: row["error"] for row in rows if row["status"] == "failed"}
    assert set(failed) == {deadly, broken}
    assert "3 processes" in failed[deadly]
    # those that took the place of others, as long as there was something left for them
    assert 1 <= len(killed) <= 1 + 3
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(files) - set(
        failed
    )
    for name in set(files) - set(failed):
        np.testing.assert_array_equal(read_image(out / name).quantised(), expected(files[name]))
    # two at first, and one for each that was killed
    assert 2 + 1 + 3 >= len({path.name.split("-")[0] for path in calls.iterdir()}) > 2


def test_command(tmp_path, tiny_model):
    source = fill(tmp_path / "in", {**{f"{i}.png": png(i) for i in range(5)}, "broken.png": b"broken"})
    command = [sys.executable, "-m", "linearsr.cli.app", "batch", source, "-o", str(tmp_path / "out")]
    command += ["--model", str(tiny_model), "--workers", "2", "--threads-per-worker", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    # no word of Ray's
    lines = done.stderr.splitlines()
    first, failure, last = (line for line in lines if not re.fullmatch(r"\d of 6 images done", line))
    assert first == "6 images to do, 0 done already"
    assert failure.startswith("broken.png: is not an image")
    assert re.fullmatch(r"5 done, 1 failed in \d+ s \(\S+ images/s\); report: \S+/report\.parquet", last)
    record = json.loads(done.stdout)
    assert [record[key] for key in ("total", "done", "skipped", "failed")] == [6, 5, 0, 1]
    table = pq.read_table(record["report"])
    assert Counter(table["status"].to_pylist()) == {"done": 5, "failed": 1}
    assert read_image(Path(tmp_path, "out/0.png")).size == (24, 20)


def test_a_mistyped_cluster_is_named_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    source = fill(tmp_path / "in", {"a.png": png(0)})
    command = [sys.executable, "-m", "linearsr.cli.app", "batch", source, "-o", str(tmp_path / "out")]
    process = subprocess.run(
        [*command, "--address", nobody], check=False, capture_output=True, text=True, timeout=50
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(f"linearsr: no Ray cluster at {nobody}: ")
    assert "Traceback" not in process.stderr


def test_a_dataset_of_images(tiny_model):
    """Arrays of several sizes, and files of which one is broken; in one pool each."""
    import ray

    arrays = [np.full((5 + i % 2, 6, 3), 40 * i, np.uint8) for i in range(4)]
    options = {"num_cpus": 1, "concurrency": 1, "batch_size": 4}
    given = {"model": str(tiny_model), "device": "cpu", "scale": 2}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        images = ray.data.from_items([{"image": array, "number": i} for i, array in enumerate(arrays)])
        made = images.map_batches(LinearSRUpscaler, fn_constructor_kwargs=given, **options).take_all()
        files = ray.data.from_items([{"bytes": data} for data in (png(0), b"broken")])
        given |= {"column": "bytes", "output": "large", "format": "webp"}
        written = files.map_batches(LinearSRUpscaler, fn_constructor_kwargs=given, **options).take_all()
    finally:
        ray.shutdown()
    made.sort(key=lambda row: row["number"])
    assert [row["image"].shape for row in made] == [(10 + 2 * (i % 2), 12, 3) for i in range(4)]
    alone = LinearSRUpscaler(str(tiny_model), device="cpu", scale=2)
    with pytest.raises(ValueError, match="scale 99"):  # at once, not for each image
        LinearSRUpscaler(str(tiny_model), device="cpu", scale=99)
    for row, array in zip(made, arrays, strict=True):
        expected = alone.upscale(array).quantised()
        assert np.abs(row["image"].astype(int) - expected).max() <= 1
    good, bad = sorted(written, key=lambda row: row["error"])
    assert (read_image(good["large"]).size, good["error"]) == ((12, 10), "")
    assert bad["large"] is None
    assert bad["error"].startswith("is not an image")
