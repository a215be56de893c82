"""Kill -9 at any moment, then resume: the run is the one that was never killed."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

from linearsr.training.config import TrainConfig
from linearsr.training.trainer import Trainer
from training_tools import load_config, read_records, settings, weights, write_config

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = {"total_images": 16, "save_every_images": 4}
"""Checkpoints at 0, 4, 8, 12 and 16 images, two of which are kept; validations at 6 and 12."""


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("unbroken")
    Trainer(TrainConfig(**settings(photos, run_dir, **LENGTHS))).run()
    return run_dir


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Whose processes have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["linearsr.training.trainer", "torch.utils.tensorboard"])
    return context


def curves(run_dir: Path) -> list[dict[str, object]]:
    """All records of a run but its pace."""
    records = read_records(run_dir)
    return [{key: value for key, value in r.items() if key != "images_per_second"} for r in records]


def assert_same(run_dir: Path, unbroken: Path) -> None:
    assert curves(run_dir) == curves(unbroken)
    for part in ("knee", "final"):
        expected, found = (weights(folder / part / "lr_stem") for folder in (unbroken, run_dir))
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
        assert set(os.listdir(run_dir / part / "lr_stem")) == set(os.listdir(unbroken / part / "lr_stem"))
    one, other = (json.loads((folder / "knee.json").read_text()) for folder in (run_dir, unbroken))
    assert {**one, "written": 0.0} == {**other, "written": 0.0}
    for folder in (".", "checkpoints"):
        assert sorted(os.listdir(run_dir / folder)) == sorted(os.listdir(unbroken / folder))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_file(state: object, path: Path, **options: object) -> None:
    """In the middle of writing weights."""
    from safetensors.torch import save_file

    save_file(state, path, **options)
    os.truncate(path, os.path.getsize(path) // 2)


def half_part(state: dict[str, torch.Tensor], storage_writer: HuggingFaceStorageWriter) -> None:
    """In the middle of writing a process's part of a checkpoint."""
    save(state, storage_writer=storage_writer)
    (path,) = Path(storage_writer.path).iterdir()
    os.truncate(path, os.path.getsize(path) // 2)


def half_line(log: object, record: object) -> None:
    """In the middle of writing down a step."""
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"images": 1')


def half_copy(source: Path, target: Path) -> None:
    """In the middle of copying a folder."""
    (target / "lr_stem").mkdir(parents=True)
    shutil.copy(next(source.rglob("*.json")), target / "lr_stem")


def half_removal(folder: Path, ignore_errors: bool = False) -> None:
    """In the middle of removing a folder."""
    for path in list(folder.rglob("*"))[:1]:
        path.unlink() if path.is_file() else shutil.rmtree(path)


def not_at_all(*args: object) -> None:
    """Before anything of it is done."""


MOMENTS: dict[str, tuple[str, int, Callable[..., None]]] = {
    "before the first step": ("linearsr.training.state:ExponentialMovingAverage.update", 1, not_at_all),
    "in a step": ("linearsr.training.state:ExponentialMovingAverage.update", 6, not_at_all),
    "in the first checkpoint": ("linearsr.training.state:save", 2, half_part),
    "in a later checkpoint": ("linearsr.training.state:save", 8, half_part),
    "at the end of a checkpoint": ("linearsr.training.state:write_json", 3, not_at_all),
    "removing an old checkpoint": ("linearsr.training.state:shutil.rmtree", 1, half_removal),
    "writing a line": ("linearsr.training.run_folder:RunLog.write", 5, half_line),
    "writing validated weights": ("linearsr.runtime.checkpoints:save_file", 2, half_file),
    "copying the knee": ("linearsr.training.run_folder:shutil.copytree", 1, half_copy),
    "before knee.json": ("linearsr.training.run_folder:write_json", 1, not_at_all),
    "after knee.json": ("linearsr.training.run_folder:shutil.rmtree", 2, half_removal),
}
"""Function, the number of the call that is not survived, and what it still does."""


def train_until(config: TrainConfig, place: str, count: int, last: Callable[..., None]) -> None:
    """Train, and die in a certain call."""
    torch.set_num_threads(1)
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner = import_module(module)
    if owners == ["shutil"]:
        # a copy, so that other modules keep theirs
        owner.shutil = SimpleNamespace(**vars(shutil))
    for part in owners:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), iter(range(count - 1))

    def call(*args: object, **options: object) -> object:
        if next(calls, None) is not None:
            return original(*args, **options)
        last(*args, **options)
        return die()

    setattr(owner, name, call)
    Trainer(config).run()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    moment: str,
    photos: Path,
    unbroken: Path,
    processes: multiprocessing.context.ForkServerContext,
    tmp_path: Path,
) -> None:
    config = TrainConfig(**settings(photos, tmp_path / "run", **LENGTHS))
    victim = processes.Process(target=train_until, args=(config, *MOMENTS[moment]))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    trainer = Trainer(config)
    trainer.resume()
    trainer.run()
    assert_same(config.run_dir, unbroken)


def test_the_command_is_killed_and_resumed(photos: Path, tmp_path: Path) -> None:
    lengths = {"total_images": 120, "save_every_images": 6}
    path = write_config(tmp_path / "a.yaml", photos, tmp_path / "run", **lengths)
    command = [sys.executable, "-m", "linearsr.cli.app", "train", str(path), "--threads", "1"]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while victim.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") > 20):
        time.sleep(0.001)
    victim.kill()
    assert victim.wait() == -signal.SIGKILL
    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert "going on from its newest checkpoint" in resumed.stderr
    Trainer(load_config(path, [f"run_dir={tmp_path / 'unbroken'}"])).run()
    assert_same(tmp_path / "run", tmp_path / "unbroken")
